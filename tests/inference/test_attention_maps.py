"""Where a model looked, against a model built so that one knows where it has to look."""

import pytest
import torch
from PIL import Image

from captioning.checkpoint.checkpoint import Checkpoint
from captioning.decoding import Greedy
from captioning.errors import ConfigError
from captioning.images.preprocessing import Preprocessing
from captioning.inference.attention_maps import attention_maps
from captioning.inference.captioner import Captioner
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderOptions
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.features import Features
from captioning.nn.model import CaptionModel
from captioning.text.vocabulary import Vocabulary


class Blocks(Encoder):
    """An encoder whose grid is the brightness of each quarter of the image."""

    def forward(self, pixels):
        quarters = torch.nn.functional.adaptive_avg_pool2d(pixels.float() / 255, 2)
        grid = quarters.mean(1).flatten(1).unsqueeze(2).expand(-1, -1, 4)
        return Features(grid.mean(1), grid)


@pytest.fixture
def captioner():
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    encoder = Blocks(EncoderConfig("timm:test_resnet", weights=None), preprocessing)
    vocabulary = Vocabulary.build([["a", "dog", "runs"]], min_count=1)
    options = DecoderOptions(embedding_size=8, hidden_size=8, attention_size=8, attention=True)
    decoder = Decoder(
        options.sized(vocabulary_size=len(vocabulary), feature_size=encoder.feature_size)
    )
    with torch.no_grad():  # the brighter a place, the more attention
        decoder.W_a.weight.fill_(0.1)
        decoder.W_a.bias.zero_()
        decoder.attend.W_ae.weight.fill_(0.1)
        decoder.attend.w_e.weight.fill_(1.0)
    model = CaptionModel(encoder, decoder).eval()
    return Captioner(Checkpoint(model, vocabulary, Greedy(min_length=3, max_length=3)))


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_maps_point_where_the_image_is_bright(captioner, corner):
    image = Image.new("RGB", (40, 40))
    image.paste("white", (20 * corner[1], 20 * corner[0], 20 * corner[1] + 20, 20 * corner[0] + 20))
    caption = captioner.caption(image).captions[0]
    maps = attention_maps(captioner, image, caption)
    assert maps.shape == (len(caption.words), 2, 2)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(len(maps)))
    for each in maps:
        assert divmod(int(each.argmax()), 2) == corner


def test_a_word_is_looked_for_after_the_words_before_it(captioner):
    """The map of word t is that of a step that has read t words, <bos> included."""
    with torch.no_grad():
        for weight in captioner.checkpoint.model.decoder.parameters():
            weight.normal_(0, 1)
    image = Image.effect_noise((40, 40), 90).convert("RGB")
    caption = captioner.caption(image).captions[0]
    maps = attention_maps(captioner, image, caption)
    model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
    with torch.inference_mode():
        state = model.start(captioner.pixels(image).unsqueeze(0))
        for word, found in zip(["<bos>", *caption.words[:-1]], maps, strict=True):
            _, state = model.decoder.step(torch.tensor([vocabulary.id(word)]), state)
            torch.testing.assert_close(state.attention.reshape(2, 2), found)


def test_models_without_attention_and_foreign_words_are_refused(captioner):
    from small_captioner import small_checkpoint

    image = Image.new("RGB", (40, 40))
    caption = captioner.caption(image).captions[0]
    with pytest.raises(ConfigError, match="has no attention"):
        attention_maps(Captioner(small_checkpoint()), image, caption)
    foreign = type(caption)("a zebra", ("a", "zebra"), 0.0, finished=True, word_log_probs=())
    with pytest.raises(ConfigError, match="zebra"):
        attention_maps(captioner, image, foreign)
