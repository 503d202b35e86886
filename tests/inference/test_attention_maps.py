"""Attention maps, for an encoder whose grid is known in advance."""

import pytest
import torch
from PIL import Image
from small_captioner import small_checkpoint

from captioning.decoding import Greedy
from captioning.errors import ConfigError
from captioning.inference.attention_maps import attention_maps
from captioning.inference.captioner import Captioner
from captioning.inference.results import Caption
from captioning.nn.encoder import Encoder
from captioning.nn.features import Features


class BrightnessEncoder(Encoder):
    """An encoder whose grid is the brightness of each quarter of the image."""

    def forward(self, pixels):
        quarters = torch.nn.functional.adaptive_avg_pool2d(pixels.float() / 255, 2)
        grid = quarters.mean(1).flatten(1).unsqueeze(2).expand(-1, -1, 4)
        return Features(grid.mean(1), grid)


@pytest.fixture
def captioner():
    search = Greedy(min_length=3, max_length=3)
    return Captioner(
        small_checkpoint(search=search, encoder_type=BrightnessEncoder, core="attention")
    )


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_maps_peak_where_the_image_is_bright(captioner, corner):
    decoder = captioner.checkpoint.model.decoder
    with torch.no_grad():  # the brighter a position, the higher its attention
        decoder.core.attention.W_a.weight.fill_(0.1)
        decoder.core.attention.W_a.bias.zero_()
        decoder.core.attention.W_ae.weight.fill_(0.1)
        decoder.core.attention.w_e.weight.fill_(1.0)
    image = Image.new("RGB", (40, 40))
    image.paste("white", (20 * corner[1], 20 * corner[0], 20 * corner[1] + 20, 20 * corner[0] + 20))
    caption = captioner.caption(image).captions[0]
    maps = attention_maps(captioner, image, caption)
    assert maps.shape == (len(caption.words), 2, 2)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(len(maps)))
    for word_map in maps:
        assert divmod(int(word_map.argmax()), 2) == corner


def test_map_of_a_word_follows_the_words_before_it(captioner):
    image = Image.effect_noise((40, 40), 90).convert("RGB")
    caption = captioner.caption(image).captions[0]
    maps = attention_maps(captioner, image, caption)
    model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
    with torch.inference_mode():
        state = model.start(captioner.read_pixels(image).unsqueeze(0))
        for word, word_map in zip(["<bos>", *caption.words[:-1]], maps, strict=True):
            _, state = model.decoder.step(torch.tensor([vocabulary.id(word)]), state)
            torch.testing.assert_close(state.attention.reshape(2, 2), word_map)


def test_maps_need_attention_and_known_words(captioner):
    image = Image.new("RGB", (40, 40))
    caption = captioner.caption(image).captions[0]
    with pytest.raises(ConfigError, match="has no attention"):
        attention_maps(Captioner(small_checkpoint()), image, caption)
    for text, message in (("a zebra", "zebra"), ("", "no words")):
        foreign = Caption(text, tuple(text.split()), 0.0, finished=True, word_log_probs=())
        with pytest.raises(ConfigError, match=message):
            attention_maps(captioner, image, foreign)
