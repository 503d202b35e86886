"""A small captioner with random weights, and images for it."""

import pytest
import torch
from drawn_images import draw

from captioning.checkpoint.checkpoint import Checkpoint, save_checkpoint
from captioning.decoding import BeamSearch
from captioning.images.preprocessing import Preprocessing
from captioning.inference.captioner import Captioner
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderOptions
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.text.vocabulary import Vocabulary

WORDS = ["a", "red", "dog", "cat", "man", "runs", "sits", "jumps", "over", "the", "grass", "water"]


def _tell_images_apart(encoder, decoder):
    """Centre and stretch what the images say; with weights as drawn, all say nearly the same."""
    pixels = torch.stack([encoder.preprocessing.pixels(draw(n)) for n in range(100, 140)])
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            weight.mul_(20 if "W_vh" in name else 2)
        decoder.cell.b -= decoder.cell.W_vh @ encoder(pixels).vector.mean(0)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The directory of a model whose captions differ from image to image."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.build([WORDS], min_count=1)
    encoder = Encoder(
        EncoderConfig("timm:test_resnet", weights=None),
        Preprocessing(size=64, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    )
    options = DecoderOptions(embedding_size=16, hidden_size=32, dropout=0.0)
    shape = options.sized(vocabulary_size=len(vocabulary), feature_size=encoder.feature_size)
    decoder = Decoder(shape)
    _tell_images_apart(encoder, decoder)
    search = BeamSearch(width=3, max_length=8)
    directory = tmp_path_factory.mktemp("models") / "small"
    checkpoint = Checkpoint(CaptionModel(encoder, decoder).eval(), vocabulary, search)
    save_checkpoint(checkpoint, directory)
    return directory


@pytest.fixture(scope="session")
def captioner(model):
    return Captioner.from_pretrained(model)
