"""Train the default model from raw files, with one command.

    python scripts/reproduce_flickr8k.py data/flickr8k --runs runs --device cuda --parallel 3
    python scripts/reproduce_flickr8k.py data/flickr8k --runs runs --device cuda --parallel 3 \
        --everyday "coco:captions_{split}.json@photos" --text text.tsv

The first command trains on Flickr8k only, so its scores can be compared with published ones. The
second adds everyday photos with the splits train and val, and captions without images, and saves
its model into the package. The settings of the runs are those of the recipe ``default-model``.

1. ``decoder``: teacher forcing on cached features of a frozen encoder.
2. ``live_0``, ``live_1``, ``live_2``: three runs from ``decoder``. Teacher forcing of the decoder
   and all encoder stages with online augmentation. With --everyday, they use both data sets and an
   extended vocabulary.
3. ``mean``: mean of the weights of these three.
4. ``concepts``: teacher forcing of a decoder with concepts, on cached features of the encoder of
   ``mean``. With --text, also on captions without images.
5. ``reward_0``, ``reward_1``: two runs from ``concepts`` with self-critical training. The encoder
   is frozen. The features of each image, of four crops, and of flipped views are cached.
6. ``last``: weighted mean of ``concepts`` and these two.

Then n-gram reranking is fitted and the search is chosen. Times and scores of the runs are in
docs/experiments.md ("The model in the package, by one command").

The same command resumes an interrupted one, also on another machine or device if the runs are
copied and the data sets have the same names. ``decoder`` takes 40 to 60 minutes on two cores, the
other steps 13 minutes on one H200 GPU. Two cores can also do the other steps, except ``live``,
which needs a GPU: one core trains on 16 captions per second, 1.5 hours per epoch.
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

from captioning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.cli import train
from captioning.decoding import BeamSearch
from captioning.errors import CaptioningError, ConfigError, TrainingError
from captioning.inference.captioner import DEFAULT_MODEL
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.device import resolve_device
from captioning.nn.encoder_config import EncoderConfig, Precision
from captioning.nn.weight_average import average_weights
from captioning.training.config import RunConfig
from captioning.training.precision import select_precision
from captioning.training.recipes import read_run_file
from captioning.training.run_directory import check_run_directory, read_settings

STAGES = read_run_file("default-model").stages
ENCODER = STAGES["teacher-forcing"]["encoder"]
DECODER = STAGES["teacher-forcing"]["decoder"]
DECODER_TRAINING = STAGES["teacher-forcing"]["training"]
LIVE = STAGES["fine-tuning"]["training"]
CONCEPTS = STAGES["concepts"]["decoder"].concepts
CONCEPT_TRAINING = STAGES["concepts"]["training"]
REWARD = STAGES["self-critical"]["training"]
ENCODER_LR_SCALES = (0.3, 0.4, 0.5)  # of live_0, live_1 and live_2
BLEU_WEIGHTS = (0.5, 0.2)  # of reward_0 and reward_1
SHARES = (0.65, 0.2, 0.15)  # of concepts, reward_0 and reward_1 in last
TEXT_WEIGHT = 0.1  # passes over the captions without images per epoch


@dataclass(frozen=True)
class Blend:
    """A weighted mean of the weights of runs.

    Attributes:
        output: Directory of the mean; its model is in ``model``, like that of a run.
        shares: Directory and share of each run.
    """

    output: Path
    shares: Mapping[Path, float]

    def build(self) -> Checkpoint:
        """Return the mean, with the info of the last run and a line about the mean.

        Raises:
            ConfigError: The runs have different vocabularies or shapes.
        """
        models = [load_checkpoint(run / "model") for run in self.shares]
        last = models[-1]
        if any(each.vocabulary != last.vocabulary for each in models):
            raise ConfigError(
                f"{', '.join(map(str, self.shares))} have different vocabularies. Use runs "
                "from the same initial model."
            )
        mixed = " + ".join(f"{share:g} {run.name}" for run, share in self.shares.items())
        training = last.info.training
        assert training is not None  # every training run writes it
        runs = (*training.runs, f"weighted mean of runs: {mixed}")
        model = average_weights([each.model for each in models], list(self.shares.values()))
        info = replace(last.info, training=replace(training, runs=runs), search_chosen=False)
        # A reranker fits only the features of its own model.
        return replace(last, model=model, search=BeamSearch(width=3), info=info, reranker=None)


Step = RunConfig | Blend


def recipe(
    flickr8k: str, everyday: str, text: Path | None, folder: Path, device: str
) -> list[list[Step]]:
    """Return the steps in order, in groups whose steps do not depend on each other.

    The last step gives the model.

    Args:
        flickr8k: Data set, such as ``flickr8k:DIR``.
        everyday: Data set with the splits train and val. Empty: train on Flickr8k only.
        text: File of captions without images, or None.
        folder: Directory of the runs.
        device: Device that trains.
    """
    decoder = RunConfig(
        data=(flickr8k,),
        cache=folder / "features",
        output=folder / "decoder",
        encoder=ENCODER,
        decoder=DECODER,
        training=DECODER_TRAINING,
        search_images=0,  # chosen for the last model only
        device=device,
    )
    following = replace(decoder, encoder=EncoderConfig(), decoder=DecoderConfig())
    live = replace(following, init_from=decoder.output / "model")
    ending = "" if everyday else "_flickr8k"
    if everyday:
        live = replace(
            live, data=(flickr8k, everyday), data_weights=(1.0, 2.0), extend_vocabulary=True
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
        for seed, rate in enumerate(ENCODER_LR_SCALES)
        for output in [folder / f"live_{seed}{ending}"]
    ]
    mean = Blend(folder / f"mean{ending}", {each.output: 1 / len(lives) for each in lives})

    concepts = replace(
        following,
        data=live.data,
        data_weights=live.data_weights,
        init_from=mean.output / "model",
        decoder=DecoderConfig(concepts=CONCEPTS),
        text_data=text,
        text_weight=TEXT_WEIGHT,
        extend_vocabulary=text is not None,
        min_count=20,
        training=CONCEPT_TRAINING,
        output=folder / f"concepts{ending}",
    )
    reward = replace(
        following,
        data=live.data,
        data_weights=live.data_weights,
        init_from=concepts.output / "model",
    )
    rewards = [
        replace(
            reward,
            output=folder / f"reward_{seed}{ending}",
            training=replace(
                REWARD, seed=seed, self_critical=replace(REWARD.self_critical, bleu_weight=bleu)
            ),
        )
        for seed, bleu in enumerate(BLEU_WEIGHTS)
    ]
    ends: list[Step] = [concepts, *rewards]
    shares = {each.output: share for each, share in zip(ends, SHARES, strict=True)}
    last = Blend(folder / f"last{ending}", shares)
    return [[decoder], [*lives], [mean], [concepts], [*rewards], [last]]


def select_run_precision(output: Path, device: str) -> Precision:
    """Return the precision of the run in ``output``, or the fastest one if there is no run."""
    try:
        settings = read_settings(output)
    except TrainingError:
        settings = None  # reported when the run is trained
    return settings.training.precision if settings else select_precision(resolve_device(device))


def run_step(step: Step) -> None:
    """Do a step, unless it is finished.

    Raises:
        CaptioningError: It fails, or its directory holds a run with other settings.
        SystemExit: It was interrupted.
    """
    if isinstance(step, Blend):
        save_checkpoint(step.build(), step.output / "model")
        return
    check_run_directory(step)
    finished = step.output / "finished"
    if finished.exists():
        print(f"{step.output} is finished.")
        return
    if code := train.run_training(step):
        sys.exit(code)
    finished.touch()


def run_all(steps: Sequence[Step], parallel: int) -> None:
    """Do independent steps, at most ``parallel`` at a time, each in its own process.

    The output of each process is in a log file next to the directory of its step.

    Raises:
        CaptioningError: A step that ran alone failed.
        KeyboardInterrupt: Ctrl-C during several steps, whose processes are ended first.
        SystemExit: A step was interrupted, or one of several failed.
    """
    for first in range(0, len(steps), parallel):
        group = steps[first : first + parallel]
        if len(group) == 1:
            run_step(group[0])
            continue
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=run_in_process, args=(step,)) for step in group]
        try:
            for step, process in zip(group, processes, strict=True):
                process.start()
                print(f"Running {step.output}. Log: {log_path(step)}", flush=True)
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
            f"{step.output} failed with exit code {process.exitcode}. See {log_path(step)}."
            for step, process in zip(group, processes, strict=True)
            if process.exitcode
        ]:
            sys.exit("\n".join(failed))


def run_in_process(step: Step) -> None:
    """Do a step in this process, which ends when its parent ends."""
    if parent := multiprocessing.parent_process():
        threading.Thread(target=exit_with, args=(parent,), daemon=True).start()
    log_path(step).parent.mkdir(parents=True, exist_ok=True)
    with log_path(step).open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    try:
        run_step(step)
    except CaptioningError as error:
        sys.exit(str(error))


def exit_with(parent: BaseProcess) -> None:
    """Wait for a process to end, then end this one. The saved state is kept."""
    parent.join()
    os._exit(1)


def log_path(step: Step) -> Path:
    """Return the log file of a step that runs next to others."""
    return step.output.with_suffix(".txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("flickr8k", type=Path, help="Folder with Flickr8k.token.txt.")
    parser.add_argument(
        "--everyday",
        default="",
        help="Data set of everyday photos with the splits train and val.",
    )
    parser.add_argument("--text", type=Path, help="File of captions without images.")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="Directory of the runs.")
    parser.add_argument("--device", default="auto", help="Device: auto, cpu, cuda, cuda:1, or mps.")
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        help="Number of independent runs to train at the same time. One run uses a quarter of a "
        "large GPU. Use 1 on a CPU.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="Directory of the model (default: the package with --everyday, otherwise next to "
        "the runs).",
    )
    arguments = parser.parse_args()
    everyday = arguments.everyday
    if arguments.parallel < 1:
        parser.error(f"--parallel {arguments.parallel}: must be at least 1.")
    data = f"flickr8k:{arguments.flickr8k}"
    own = DEFAULT_MODEL if everyday else arguments.runs / "model_flickr8k"
    try:
        steps = recipe(data, everyday, arguments.text, arguments.runs, arguments.device)
        for group in steps:
            run_all(group, arguments.parallel)
        model = load_checkpoint(steps[-1][-1].output / "model")
        trained_on = next(step.data for step in steps[-2] if isinstance(step, RunConfig))
        make_default_model(model, trained_on, arguments.output or own)
    except CaptioningError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
