"""What ``benchmark.py train`` measures: teacher forcing on cached features of random images.

Captions are random words with the lengths of Flickr8k's (10.8 words on average).
"""

import os
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.prepared import Prepared
from benchmarks.products import Product, Products, Weights, teacher_forcing_products
from captioning.datasets.batches import CaptionDataset
from captioning.features.cache import ArrayRows
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.text.caption_arrays import CaptionArray
from captioning.training.memory import disable_malloc_trim
from captioning.training.trainer import Trainer
from captioning.training.training_config import TrainingConfig

Settings = Mapping[str, Any]

_CAPTIONS_PER_IMAGE = 5
_FEATURES = 1280
_GRID = 81


def make_dataset(captions: int, words: int) -> CaptionDataset:
    """Return random captions with Flickr8k's lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = (10.8 + 3.8 * torch.randn(captions, generator=generator)).round().clamp(3, 34)
    tokens = [
        [1, *torch.randint(4, words, (int(length),), generator=generator).tolist(), 2]
        for length in lengths
    ]
    step = _CAPTIONS_PER_IMAGE
    images = [tokens[i : i + step] for i in range(0, captions, step)]
    return CaptionDataset(CaptionArray.from_lists(images))


def make_decoder(settings: Settings) -> Decoder:
    config = DecoderConfig(core=settings["core"], **settings.get("sizes", {}))
    return Decoder(config, vocabulary_size=settings["vocabulary"], feature_size=_FEATURES)


def make_config(settings: Settings) -> TrainingConfig:
    return TrainingConfig(
        precision=settings.get("precision") or "float32",
        batch_size=settings["batch_size"],
        captions_per_image=settings["captions_per_image"],
        hflip=False,
        epochs=1000,  # more than the benchmark runs
    )


def train(settings: Settings) -> Prepared:
    """Train an epoch."""
    disable_malloc_trim()  # as `captioning train` does
    facts = _join_job() if "RANK" in os.environ else {}
    dataset = make_dataset(settings["limit"], settings["vocabulary"])
    decoder = make_decoder(settings)
    positions = _GRID if decoder.config.uses_grid else 1
    features = torch.empty(len(dataset.captions), 1, positions, _FEATURES, dtype=torch.float16)
    for image in features:
        image[:] = torch.rand(1, positions, _FEATURES)
    cache = ArrayRows(features)
    trainer = Trainer(decoder, dataset, cache, make_config(settings))
    return Prepared(trainer.train_epoch, len(dataset), facts=facts)


def _join_job() -> dict[str, int]:
    """Connect this process to the others of its job, and return their number as a fact."""
    from captioning.processes import connect_processes, process_count  # not in every checkout

    connect_processes("cpu")
    return {"processes": process_count()}


def train_products(settings: Settings) -> Prepared:
    """Compute the matrix products of an epoch alone, forward and backward."""
    dataset, decoder = (
        make_dataset(settings["limit"], settings["vocabulary"]),
        make_decoder(settings),
    )
    config, weights = make_config(settings), Weights.of(decoder)
    products: list[Product] = []
    for batch in dataset.batches(config.batch_size, per_image=config.captions_per_image):
        products += teacher_forcing_products(
            weights,
            batch.inputs.batch_sizes.tolist(),
            len(batch.images),
            len(batch.inputs.data.unique()),
            _GRID if decoder.config.uses_grid else 1,
        )
    dtype = getattr(torch, config.precision)
    own = Products(products, dtype)
    facts = {"gflop_per_unit": own.operations / 1e9 / len(dataset), "dtype": config.precision}
    return Prepared(own.run, len(dataset), facts=facts)
