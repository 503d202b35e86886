"""A tiny model with random weights, shared by all tests, and images for it."""

import numpy as np
import torch
from PIL import Image

from captioning.checkpoint import Checkpoint, ModelInfo
from captioning.decoding import BeamSearch
from captioning.images.preprocessing import Preprocessing
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.text.vocabulary import Vocabulary

WORDS = [
    *("a", "the", "red", "dog", "cat", "man", "woman", "runs", "sits", "sleeps", "on", "in"),
    *("grass", "water", "snow", "street", "ball", "hat"),
]
SIZES = {"embedding_size": 16, "hidden_size": 16, "attention_size": 8}


def small_checkpoint(
    sentences=(WORDS,), *, search=None, encoder_type=Encoder, image_size=32, **options
):
    """Return a model whose captions differ from image to image.

    Args:
        sentences: Sentences as words, whose words are the vocabulary.
        search: The default search.
        encoder_type: Class of the encoder.
        image_size: Side of its input; its grid has a position for every 32 pixels.
        options: Options of the decoder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        vocabulary = Vocabulary.build(sentences, min_count=1)
        preprocessing = Preprocessing(size=image_size, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
        encoder = encoder_type(EncoderConfig("timm:test_resnet", weights=None), preprocessing)
        decoder = Decoder(
            DecoderConfig(**{**SIZES, **options}),
            vocabulary_size=len(vocabulary),
            feature_size=encoder.feature_size,
            concepts=3 if options.get("concepts") else 0,
        )
        with torch.no_grad():
            for weight in decoder.parameters():
                weight.normal_(0, 1.5)  # uneven distributions, so that the image matters
        model = CaptionModel(encoder, decoder).eval()
    search = search or BeamSearch(width=2, max_length=8)
    return Checkpoint(model, vocabulary, search, ModelInfo(name="Small"))


def write_photos(folder, count, *, size=(48, 40), ending="jpg", start=1, name="photo"):
    """Write different images ``photo1.jpg``, ``photo2.jpg``, ... and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(start, start + count):
        noise = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
        path = folder / f"{name}{number}.{ending}"
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths
