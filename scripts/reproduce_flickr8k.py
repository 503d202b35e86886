"""From the raw files to the model inside the package, by one command.

    python scripts/reproduce_flickr8k.py data/flickr8k --runs runs --device cuda --at-once 3
    python scripts/reproduce_flickr8k.py data/flickr8k --everyday data/everyday@photos --runs runs \
        --device cuda --at-once 3

The first trains on Flickr8k alone, which is what compares with published figures; the second adds
everyday photos and captions without images, as scripts/prepare_everyday.py writes them, and puts
its model into the package: so the model there was made (phrases and search twice, and
docs/experiments.md says why).

1. ``decoder``  teacher forcing, on cached features of a frozen CNN;
2. ``live_0``, ``live_1``, ``live_2``  from there, thrice: teacher forcing of the decoder and all
   stages of the CNN, on parts of the photos that are drawn anew each time; with --everyday on both
   data sets and the text, with the new words;
3. ``mean``     the mean of the weights of these three;
4. ``reward_0``, ``reward_1``  from there, twice: sampled captions are rewarded (self-critical
   training); the CNN is frozen again, and the features of each photo, of four parts of it and of
   mirror images are cached;
5. ``last``     a mean of the weights of these and of ``mean``.

Then it learns which phrases v makes likely, and the search is chosen. What each run took and scored
is in docs/experiments.md ("the model in the package, by one command"). Stopped at any moment, the
same command goes on where it was, on another machine and --device too if the folder of the runs is
taken there and the data have the same names. ``decoder`` takes forty minutes to an hour on two
cores, and everything after it thirteen minutes on one H200 GPU. Two cores alone can take all steps
but ``live``, which wants a GPU: a core trains on 16 captions a second, an hour and a half an epoch.
"""

import argparse
import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from make_default_model import make_default_model

from captioning.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.cli import train
from captioning.decoding import BeamSearch
from captioning.errors import CaptioningError, ConfigError, TrainingError
from captioning.features.cache_keys import Precision
from captioning.inference.captioner import DEFAULT_MODEL
from captioning.nn import DecoderConfig, EncoderConfig
from captioning.nn.device import resolve_device
from captioning.nn.weight_average import blended
from captioning.training import RunConfig, SelfCriticalConfig, TrainingConfig
from captioning.training.precision import select_precision
from captioning.training.run_directory import check_run_directory, read_settings

ENCODER = EncoderConfig("timm:tf_efficientnet_lite2")
DECODER = DecoderConfig(core="attention", readout="deep", dropout=0.3)
COMMON = TrainingConfig(patience=0, save_every=100)
TAUGHT = replace(COMMON, epochs=10, captions_per_image=2, ema_decay=0.998)
LIVE = replace(
    COMMON,
    online_augmentation=True,
    fine_tune_stages=7,
    epochs=7,
    captions_per_image=5,
    batch_size=320,
    learning_rate=8e-4,
    warmup_steps=100,
    ema_decay=0.995,
)
ENCODER_RATES = (0.3, 0.4, 0.5)  # of live_0, live_1 and live_2
REWARD = replace(
    COMMON,
    objective="self_critical",
    self_critical=SelfCriticalConfig(samples=5),
    epochs=4,
    cached_crops=4,
    batch_size=160,
    captions_per_image=5,
    learning_rate=3e-4,
    warmup_steps=50,
    ema_decay=0.98,
)
BLEU = (0.5, 0.2)  # of BLEU-4 in the reward of reward_0 and reward_1
SHARES = (0.65, 0.2, 0.15)  # of mean, reward_0 and reward_1 in the last


@dataclass(frozen=True)
class Blend:
    """A mean of the weights of runs.

    Attributes:
        output: Where its model goes, as a run's does.
        shares: The directory of each run, and its share.
    """

    output: Path
    shares: Mapping[Path, float]

    def made(self) -> Checkpoint:
        """Return the mean; its history is the last run's, and then the names of all and shares.

        Raises:
            ConfigError: The runs have other words or shapes.
        """
        models = [load_checkpoint(run / "model") for run in self.shares]
        last = models[-1]
        if any(each.vocabulary != last.vocabulary for each in models):
            raise ConfigError(
                f"{', '.join(map(str, self.shares))} have different words. Mix runs that began at "
                "one model."
            )
        mixed = " + ".join(f"{share:g} {run.name}" for run, share in self.shares.items())
        training = last.info.training
        assert training is not None  # every training run writes it
        runs = (*training.runs, f"the mean of weights {mixed}")
        model = blended([each.model for each in models], list(self.shares.values()))
        info = replace(last.info, training=replace(training, runs=runs), search_chosen=False)
        # NgramReranker go with one v, and the search that counts them with them.
        return replace(last, model=model, search=BeamSearch(width=3), info=info, reranker=None)


Step = RunConfig | Blend


def recipe(flickr8k: str, everyday: str, folder: Path, device: str) -> list[list[Step]]:
    """Return the runs and the means of runs, those together that do not need each other, in order.

    The last is the model.

    Args:
        flickr8k: The data set's name.
        everyday: The folder of everyday.json and text.tsv, with ``@`` and that of the photos; empty
            to train on Flickr8k alone.
        folder: Where the runs are kept.
        device: Where the tensors live.
    """
    decoder = RunConfig(
        data=(flickr8k,),
        cache=folder / "features",
        output=folder / "decoder",
        encoder=ENCODER,
        decoder=DECODER,
        training=TAUGHT,
        search_images=0,  # the model's is chosen at the end
        device=device,
    )
    following = replace(decoder, encoder=EncoderConfig(), decoder=DecoderConfig())
    live = replace(following, init_from=decoder.output / "model")
    ending = "" if everyday else "_flickr8k"
    if everyday:
        captions, photos = split(everyday)
        live = replace(
            live,
            data=(flickr8k, f"karpathy:{captions}/everyday.json@{photos}"),
            data_weights=(1.0, 3.0),
            text_data=Path(captions) / "text.tsv",
            text_weight=0.25,
            extend_vocabulary=True,
            min_count=10,
        )
    lives = [
        replace(
            live,
            output=output,
            training=replace(
                LIVE,
                seed=seed,
                encoder_lr_scale=rate,
                precision=select_run_precision(output, device),
            ),
        )
        for seed, rate in enumerate(ENCODER_RATES)
        for output in [folder / f"live_{seed}{ending}"]
    ]
    mean = Blend(folder / f"mean{ending}", {each.output: 1 / len(lives) for each in lives})

    reward = replace(
        following,
        data=live.data,
        data_weights=(1.0, 2.0) if everyday else (),
        init_from=mean.output / "model",
    )
    rewards = [
        replace(
            reward,
            output=folder / f"reward_{seed}{ending}",
            training=replace(
                REWARD, seed=seed, self_critical=replace(REWARD.self_critical, bleu_weight=bleu)
            ),
        )
        for seed, bleu in enumerate(BLEU)
    ]
    ends: list[Step] = [mean, *rewards]
    shares = {each.output: share for each, share in zip(ends, SHARES, strict=True)}
    last = Blend(folder / f"last{ending}", shares)
    return [[decoder], [*lives], [mean], [*rewards], [last]]


def select_run_precision(output: Path, device: str) -> Precision:
    """Return the precision of the run in ``output``, or the fastest one if there is no run."""
    try:
        settings = read_settings(output)
    except TrainingError:
        settings = None  # reported when the run is trained
    return settings.training.precision if settings else select_precision(resolve_device(device))


def finish(step: Step) -> None:
    """Take a step, unless it was taken before: then its images are not looked at again.

    Raises:
        CaptioningError: It cannot be taken, or was begun under other settings.
        SystemExit: It was interrupted.
    """
    if isinstance(step, Blend):
        save_checkpoint(step.made(), step.output / "model")
        return
    check_run_directory(step)
    finished = step.output / "finished"
    if finished.exists():
        print(f"{step.output} is finished")
        return
    if code := train.run(step):
        sys.exit(code)
    finished.touch()


def finish_all(steps: Sequence[Step], at_once: int) -> None:
    """Take steps that do not need each other, some at a time in processes of their own.

    What such a process has to say stands in a file beside the step's directory.

    Raises:
        CaptioningError: A step cannot be taken, and none was begun beside it.
        KeyboardInterrupt: Ctrl-C while several went on; they are ended first.
        SystemExit: A step was interrupted, or one of several could not be taken.
    """
    for first in range(0, len(steps), at_once):
        together = steps[first : first + at_once]
        if len(together) == 1:
            finish(together[0])
            continue
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=finish_alone, args=(step,)) for step in together]
        try:
            for step, process in zip(together, processes, strict=True):
                process.start()
                print(f"{step.output} goes on, and says so in {told(step)}", flush=True)
            for process in processes:
                process.join()
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
            for process in processes:
                if process.pid:
                    process.join()
        if failed := [
            f"{step.output} ended with {process.exitcode}; what it said is in {told(step)}."
            for step, process in zip(together, processes, strict=True)
            if process.exitcode
        ]:
            sys.exit("\n".join(failed))


def finish_alone(step: Step) -> None:
    """Take a step in a process that ends when the one that began it does."""
    if parent := multiprocessing.parent_process():
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    told(step).parent.mkdir(parents=True, exist_ok=True)
    with told(step).open("a") as told_to:
        os.dup2(told_to.fileno(), sys.stdout.fileno())
        os.dup2(told_to.fileno(), sys.stderr.fileno())
    try:
        finish(step)
    except CaptioningError as error:
        sys.exit(str(error))


def end_with(parent: BaseProcess) -> None:
    """Wait for a process to end, and end; what was saved is kept."""
    parent.join()
    os._exit(1)


def told(step: Step) -> Path:
    """Return the file of what a step has to say that goes on beside others."""
    return step.output.with_suffix(".txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("flickr8k", type=Path, help="folder with Flickr8k.token.txt")
    parser.add_argument("--everyday", default="", help="folder of everyday.json, @, that of photos")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are kept")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--at-once",
        type=int,
        default=1,
        help="runs that go on at once where they do not need each other: one alone keeps a large "
        "GPU a quarter busy; for a CPU one is enough",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="where the model goes: into the package with --everyday, otherwise beside the runs",
    )
    arguments = parser.parse_args()
    everyday = arguments.everyday
    if arguments.at_once < 1:
        parser.error(f"--at-once {arguments.at_once}: one run or more go on at a time.")
    if everyday:
        captions, photos = split(everyday)
        needed = [Path(captions) / "everyday.json", Path(captions) / "text.tsv", Path(photos)]
        if missing := [path for path in needed if not path.exists()]:
            parser.error(
                f"--everyday {everyday}: FOLDER@PHOTOS was expected, as "
                f"scripts/prepare_everyday.py writes them; there is no {missing[0]}."
            )
    data = f"flickr8k:{arguments.flickr8k}"
    own = DEFAULT_MODEL if everyday else arguments.runs / "model_flickr8k"
    try:
        steps = recipe(data, everyday, arguments.runs, arguments.device)
        for together in steps:
            finish_all(together, arguments.at_once)
        made = load_checkpoint(steps[-1][-1].output / "model")
        trained_on = next(step.data for step in steps[-2] if isinstance(step, RunConfig))
        make_default_model(made, trained_on, arguments.output or own)
    except CaptioningError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Interrupted. Give the same command again to go on.", file=sys.stderr)
        sys.exit(130)


def split(everyday: str) -> tuple[str, str]:
    """Return the folder of everyday.json and that of the photos."""
    captions, _, photos = everyday.rpartition("@")
    return captions, photos


if __name__ == "__main__":
    main()
