"""From the raw files of Flickr8k to the model inside the package, by one command.

    python scripts/reproduce_flickr8k.py data/flickr8k --runs runs

Two training runs, the second from the best epoch of the first, and then the choice of the search:

1. ``decoder``  teacher forcing, on cached features of a frozen CNN;
2. ``reward``   sampled captions are rewarded with their CIDEr-D (self-critical training).

Stopped at any moment, the same command goes on where it was. What each run took and scored is in
docs/experiments.md.
"""

import argparse
import sys
from pathlib import Path

from make_default_model import make_default_model

from captioning.captioner import DEFAULT_MODEL
from captioning.commands import train
from captioning.nn import DecoderOptions, EncoderConfig
from captioning.training import RunConfig, SelfCriticalConfig, TrainingConfig


def runs(data: str, folder: Path) -> list[RunConfig]:
    """Return the settings of the two runs."""
    common = {"data": (data,), "cache": folder / "features"}
    decoder = RunConfig(
        **common,
        output=folder / "decoder",
        encoder=EncoderConfig("timm:tf_efficientnet_lite2"),
        decoder=DecoderOptions(attention=True),
        training=TrainingConfig(
            epochs=15,
            captions_per_image=2,
            averaging=0.998,
            patience=0,
            precision="bfloat16",
            save_every=100,
        ),
    )
    reward = RunConfig(
        **common,
        output=folder / "reward",
        start=decoder.output / "model",
        training=TrainingConfig(
            objective="self_critical",
            self_critical=SelfCriticalConfig(samples=5),
            epochs=3,
            batch_size=160,
            captions_per_image=5,
            learning_rate=2e-4,
            warmup_steps=50,
            averaging=0.98,
            patience=0,
            precision="bfloat16",
            save_every=30,
        ),
    )
    return [decoder, reward]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("flickr8k", type=Path, help="folder with Flickr8k.token.txt")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are kept")
    parser.add_argument("--output", type=Path, default=DEFAULT_MODEL, help="the model's directory")
    arguments = parser.parse_args()
    data = f"flickr8k:{arguments.flickr8k}"
    for config in runs(data, arguments.runs):
        if code := train.run(config):
            sys.exit(code)
    make_default_model(config.output, data, arguments.output)


if __name__ == "__main__":
    main()
