"""From the raw files to the model inside the package, by one command.

    python scripts/reproduce_flickr8k.py data/flickr8k --runs runs --device cuda
    python scripts/reproduce_flickr8k.py data/flickr8k --everyday data/everyday@photos --runs runs \
        --device cuda

The first trains on Flickr8k alone, which is what compares with published figures; the second adds
everyday photos and captions without pictures, as scripts/prepare_everyday.py writes them, and its
model is the one in the package:

1. ``decoder``  teacher forcing, on cached features of a frozen CNN;
2. ``live_0``, ``live_1``  from there, twice: teacher forcing of the decoder and all stages of the
   CNN, on parts of the photos that are drawn anew each time; with --everyday on both data sets and
   the text, with the new words;
3. ``mean``     the mean of the weights of these two;
4. ``reward_0``  from there: sampled captions are rewarded (self-critical training), the CNN frozen
   again and its features cached;
5. ``halfway``  the mean of the weights before and after that;
6. ``reward_1``  from there: rewarded again, with less of BLEU-4 in the reward;
7. ``last``     seven tenths of the weights of ``mean``, three of those of ``reward_1``.

Then the search is chosen. The model in the package had its rewards before a fault in the drawing
of samples was mended, so these runs will give another one (docs/experiments.md, "a fault in all
rewards"; what each run took and scored is there too). Stopped at any moment, the same command goes
on where it was. On two cores ``decoder`` takes an hour and each ``reward`` half an hour; ``live``
wants a GPU, where both together took six minutes: a core trains on 16 captions a second, which is
an hour and a half an epoch.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from make_default_model import blend_of_runs, make_default_model

from captioning.captioner import DEFAULT_MODEL
from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.commands import train
from captioning.nn import DecoderOptions, EncoderConfig
from captioning.training import RunConfig, SelfCriticalConfig, TrainingConfig
from captioning.training.precision import fast_precision

COMMON = TrainingConfig(patience=0, save_every=100)
TAUGHT = replace(COMMON, epochs=10, captions_per_image=2, averaging=0.998)
LIVE = replace(
    COMMON,
    live=True,
    fine_tune=7,
    epochs=9,
    captions_per_image=5,
    batch_size=320,
    learning_rate=8e-4,
    warmup_steps=100,
    averaging=0.995,
)
ENCODER_RATES = (0.2, 0.4)
REWARD = replace(
    COMMON,
    objective="self_critical",
    epochs=3,
    batch_size=160,
    captions_per_image=5,
    learning_rate=3e-4,
    warmup_steps=50,
    averaging=0.98,
)


@dataclass(frozen=True)
class Blend:
    """A mean of the weights of runs.

    Attributes:
        output: Where its model goes, as a run's does.
        shares: The directory of each run, and its share.
    """

    output: Path
    shares: Mapping[Path, float]


def recipe(flickr8k: str, everyday: str, folder: Path, device: str) -> list[RunConfig | Blend]:
    """Return the runs and the means of runs, in order; the last is the model.

    Args:
        flickr8k: The data set's name.
        everyday: The folder of everyday.json and text.tsv, with ``@`` and that of the photos; empty
            to train on Flickr8k alone.
        folder: Where the runs are kept.
        device: Where the tensors live.
    """

    def on_device(training: TrainingConfig) -> TrainingConfig:
        return replace(training, precision=fast_precision(device))

    decoder = RunConfig(
        data=(flickr8k,),
        cache=folder / "features",
        output=folder / "decoder",
        encoder=EncoderConfig("timm:tf_efficientnet_lite2"),
        decoder=DecoderOptions(attention=True, deep_output=True, dropout=0.3),
        training=on_device(TAUGHT),
        device=device,
    )
    following = replace(decoder, encoder=EncoderConfig(), decoder=DecoderOptions())
    live = replace(following, start=decoder.output / "model")
    ending = "" if everyday else "_flickr8k"
    if everyday:
        captions, photos = split(everyday)
        live = replace(
            live,
            data=(flickr8k, f"karpathy:{captions}/everyday.json@{photos}"),
            times=(1.0, 3.0),
            text=Path(captions) / "text.tsv",
            text_times=0.25,
            new_words=True,
            min_count=10,
        )
    lives = [
        replace(
            live,
            output=folder / f"live_{seed}{ending}",
            training=on_device(replace(LIVE, seed=seed, encoder_rate=rate)),
        )
        for seed, rate in enumerate(ENCODER_RATES)
    ]
    mean = Blend(folder / f"mean{ending}", {each.output: 0.5 for each in lives})

    def rewarded(number: int, start: Blend, *, seed: int, bleu: float) -> RunConfig:
        reward = SelfCriticalConfig(samples=5, bleu=bleu)
        return replace(
            following,
            data=live.data,
            times=(1.0, 2.0) if everyday else (),
            output=folder / f"reward_{number}{ending}",
            start=start.output / "model",
            training=on_device(replace(REWARD, seed=seed, self_critical=reward)),
        )

    first = rewarded(0, mean, seed=0, bleu=0.5)
    halfway = Blend(folder / f"halfway{ending}", {mean.output: 0.5, first.output: 0.5})
    second = rewarded(1, halfway, seed=2, bleu=0.2)
    last = Blend(folder / f"last{ending}", {mean.output: 0.7, second.output: 0.3})
    return [decoder, *lives, mean, first, halfway, second, last]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("flickr8k", type=Path, help="folder with Flickr8k.token.txt")
    parser.add_argument("--everyday", default="", help="folder of everyday.json, @, that of photos")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are kept")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
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
    steps = recipe(data, everyday, arguments.runs, arguments.device)
    for step in steps:
        if isinstance(step, RunConfig):
            if code := train.run(step):
                sys.exit(code)
        elif not (step.output / "model").is_dir():
            save_checkpoint(blend_of_runs(step.shares), step.output / "model")
    made = load_checkpoint(steps[-1].output / "model")
    trained_on = next(step.data for step in reversed(steps) if isinstance(step, RunConfig))
    make_default_model(made, trained_on, arguments.output or own)


def split(everyday: str) -> tuple[str, str]:
    """Return the folder of everyday.json and that of the photos."""
    captions, _, photos = everyday.rpartition("@")
    return captions, photos


if __name__ == "__main__":
    main()
