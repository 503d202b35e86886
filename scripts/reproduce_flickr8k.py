"""From the raw files to the model inside the package, by one command.

    python scripts/reproduce_flickr8k.py data/flickr8k --runs runs
    python scripts/reproduce_flickr8k.py data/flickr8k --everyday data/everyday@photos --runs runs

The first trains on Flickr8k alone, which is what compares with published figures; the second adds
everyday photos and captions without pictures, as scripts/prepare_everyday.py writes them, and its
model is the one in the package. Each training run starts from the best epoch of the one before:

1. ``decoder``  teacher forcing, on cached features of a frozen CNN;
2. ``encoder``  the same with the CNN's last two stages;
3. ``mixed``    (with --everyday) the same on both data sets and the text, with the new words;
4. ``reward``   sampled captions are rewarded (self-critical training), the CNN frozen again;
5. ``again``    the same from the mean of the weights before and after that, with random crops.

Then the weights before and after the last run are averaged, and the search is chosen. Stopped at
any moment, the same command goes on where it was. What each run took and scored is in
docs/experiments.md: about four hours in all on two cores.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from make_default_model import make_default_model

from captioning.captioner import DEFAULT_MODEL
from captioning.commands import train
from captioning.nn import DecoderOptions, EncoderConfig
from captioning.training import RunConfig, SelfCriticalConfig, TrainingConfig
from captioning.training.precision import fast_precision

COMMON = TrainingConfig(
    patience=0,
    precision=fast_precision("cpu"),
    averaging=0.998,
    save_every=60,
)
TAUGHT = replace(COMMON, captions_per_image=2, save_every=100)
FINE_TUNED = replace(COMMON, fine_tune=2, captions_per_image=5, encoder_rate=0.25)
REWARD = replace(
    COMMON,
    objective="self_critical",
    self_critical=SelfCriticalConfig(samples=5),
    batch_size=160,
    captions_per_image=5,
    learning_rate=2e-4,
    warmup_steps=50,
    averaging=0.98,
    save_every=30,
)


def runs(flickr8k: str, everyday: Path | None, folder: Path) -> list[RunConfig]:
    """Return the settings of all runs.

    Args:
        flickr8k: The data set's name.
        everyday: The folder of everyday.json and text.tsv, with ``@`` and that of the photos; None
            to train on Flickr8k alone.
        folder: Where the runs are kept.
    """
    decoder = RunConfig(
        data=(flickr8k,),
        cache=folder / "features",
        output=folder / "decoder",
        encoder=EncoderConfig("timm:tf_efficientnet_lite2"),
        decoder=DecoderOptions(attention=True),
        training=replace(TAUGHT, epochs=15),
    )
    following = replace(decoder, encoder=EncoderConfig(), decoder=DecoderOptions())
    encoder = replace(
        following,
        output=folder / "encoder",
        start=decoder.output / "model",
        training=replace(FINE_TUNED, epochs=6, learning_rate=4e-4),
    )
    taught = encoder
    if everyday is not None:
        captions, photos = split(everyday)
        taught = replace(
            following,
            data=(flickr8k, f"karpathy:{captions}/everyday.json@{photos}"),
            times=(1.0, 3.0),
            text=Path(captions) / "text.tsv",
            text_times=0.25,
            new_words=True,
            min_count=10,
            output=folder / "mixed",
            start=encoder.output / "model",
            training=replace(
                FINE_TUNED, epochs=5, learning_rate=5e-4, batch_size=192, encoder_rate=0.3
            ),
        )
    reward = replace(
        following,
        data=taught.data,
        times=(1.0, 2.0) if everyday else (),
        output=folder / ("reward" if everyday else "reward_flickr8k"),
        start=taught.output / "model",
        training=replace(REWARD, epochs=6, self_critical=SelfCriticalConfig(samples=5, bleu=0.5)),
    )
    again = replace(
        reward,
        output=folder / f"{reward.output.name}_again",
        start=folder / f"{reward.output.name}_mean" / "model",
        training=replace(reward.training, epochs=7, crops=4),
    )
    return [decoder, encoder, *([taught] if everyday else []), reward, again]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("flickr8k", type=Path, help="folder with Flickr8k.token.txt")
    parser.add_argument("--everyday", type=Path, help="folder of everyday.json, @, that of photos")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are kept")
    parser.add_argument(
        "--output",
        type=Path,
        help="where the model goes: into the package with --everyday, otherwise beside the runs",
    )
    arguments = parser.parse_args()
    everyday = arguments.everyday
    if everyday and not all(part and Path(part).is_dir() for part in split(everyday)):
        parser.error(f"--everyday {everyday}: FOLDER@PHOTOS was expected, both of them there.")
    data = f"flickr8k:{arguments.flickr8k}"
    own = DEFAULT_MODEL if everyday else arguments.runs / "model_flickr8k"
    *first, reward, again = runs(data, everyday, arguments.runs)
    for config in first:
        if code := train.run(config):
            sys.exit(code)
    assert again.start is not None
    for config, output in ((reward, again.start), (again, arguments.output or own)):
        if code := train.run(config):
            sys.exit(code)
        if config is again or not output.is_dir():
            assert config.start is not None
            make_default_model(config.output, config.data, output, blend=config.start.parent)


def split(everyday: Path) -> tuple[str, str]:
    """Return the folder of everyday.json and that of the photos."""
    captions, _, photos = str(everyday).rpartition("@")
    return captions, photos


if __name__ == "__main__":
    main()
