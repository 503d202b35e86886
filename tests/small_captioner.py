"""A tiny model with random weights that says something else of each image, and such images."""

import numpy as np
import torch
from PIL import Image

from captioning.checkpoint.checkpoint import Checkpoint
from captioning.checkpoint.model_info import ModelInfo
from captioning.decoding import BeamSearch
from captioning.images.preprocessing import Preprocessing
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderOptions
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.text.vocabulary import Vocabulary

WORDS = [
    *("a", "the", "red", "dog", "cat", "man", "woman", "runs", "sits", "sleeps", "on", "in"),
    *("grass", "water", "snow", "street", "ball", "hat"),
]


def small_checkpoint() -> Checkpoint:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        vocabulary = Vocabulary.build([WORDS], min_count=1)
        preprocessing = Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
        encoder = Encoder(EncoderConfig("timm:test_resnet", weights=None), preprocessing)
        options = DecoderOptions(embedding_size=16, hidden_size=16, attention_size=8)
        shape = options.sized(vocabulary_size=len(vocabulary), feature_size=encoder.feature_size)
        decoder = Decoder(shape)
        with torch.no_grad():
            for weight in decoder.parameters():
                weight.normal_(0, 1.5)  # far from even, so that images make a difference
        model = CaptionModel(encoder, decoder).eval()
    return Checkpoint(model, vocabulary, BeamSearch(width=2, max_length=8), ModelInfo(name="Small"))


def write_photos(folder, count, *, size=(48, 40), ending="jpg", start=1, name="photo"):
    """Write photos ``photo1`` and so on, no two the same, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(start, start + count):
        noise = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
        path = folder / f"{name}{number}.{ending}"
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths
