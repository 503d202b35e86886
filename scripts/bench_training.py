"""Measure the time of one epoch on cached vectors, and the share of its matrix products.

Captions are random words with the lengths of Flickr8k's (10.8 words on average), features random
vectors: 6,000 images, 30,000 captions, 2,550 words, LSTM of 512, batches of 128. The time of the
matrix products is their number of operations, divided by the rate of this machine for a product of
the readout's shape, which the script measures.

    python scripts/bench_training.py --threads 2
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from captioning.datasets.batches import CaptionDataset
from captioning.features.cache import FeatureCache
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.training.config import TrainingConfig
from captioning.training.memory import disable_malloc_trim
from captioning.training.trainer import Trainer

IMAGES, PER_IMAGE, WORDS, FEATURES = 6000, 5, 2550, 1280


def product_rate(rows: int, inner: int, columns: int, seconds: float = 1.0) -> float:
    """Return operations per second of an (rows x inner) by (inner x columns) product."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    a @ b
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ b
        count += 1
    return 2.0 * rows * inner * columns * count / (time.perf_counter() - start)


def operations(config: DecoderConfig, words: int, images: int) -> float:
    """Return the operations of an epoch's matrix products: forward once, backward twice."""
    E, H = config.embedding_size, config.hidden_size
    per_word = E * 4 * H + H * 4 * H + H * E + E * WORDS
    return 3 * 2.0 * (words * per_word + images * FEATURES * 4 * H)


def dataset() -> CaptionDataset:
    """Return random captions with Flickr8k's lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = (10.8 + 3.8 * torch.randn(IMAGES * PER_IMAGE, generator=generator)).round()
    captions = [
        [1, *torch.randint(4, WORDS, (int(n),), generator=generator).tolist(), 2]
        for n in lengths.clamp(3, 34)
    ]
    return CaptionDataset([captions[i : i + PER_IMAGE] for i in range(0, len(captions), PER_IMAGE)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    disable_malloc_trim()  # as `captioning train` does
    options = DecoderConfig()
    config = TrainingConfig(epochs=arguments.epochs + 1, precision=arguments.precision)
    captions = dataset()
    with tempfile.TemporaryDirectory() as directory:
        cache = FeatureCache(Path(directory), (IMAGES, 2, 1, FEATURES))
        cache.append(torch.randn(IMAGES, 2, 1, FEATURES), {})
        decoder = Decoder(options, vocabulary_size=WORDS, feature_size=FEATURES)
        trainer = Trainer(decoder, captions, cache, config)
        trainer.train_epoch()  # warm-up
        seconds = []
        for _ in range(arguments.epochs):
            start = time.perf_counter()
            trainer.train_epoch()
            seconds.append(time.perf_counter() - start)
    words = sum(len(tokens) - 1 for image in captions.captions for tokens in image)
    rate = product_rate(1500, options.embedding_size, WORDS)
    products = operations(options, words, IMAGES * PER_IMAGE) / rate
    median = statistics.median(seconds)
    print(
        f"one epoch of {len(captions):,} captions ({words:,} words): median {median:.1f} s "
        f"({min(seconds):.1f} to {max(seconds):.1f} s), {arguments.threads} threads, "
        f"{arguments.precision}"
    )
    print(
        f"its matrix products at this machine's {rate / 1e9:.0f} GFLOP/s: {products:.1f} s, "
        f"{products / median:.0%} of it"
    )
    print(
        json.dumps(
            {
                "seconds_per_epoch": round(median, 2),
                "all_seconds": [round(s, 2) for s in seconds],
                "product_gflops": round(rate / 1e9, 1),
                "product_share": round(products / median, 3),
                "threads": arguments.threads,
                "precision": arguments.precision,
            }
        )
    )


if __name__ == "__main__":
    main()
