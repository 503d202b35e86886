"""Train the default model from raw files, with one command.

    python scripts/reproduce_flickr8k.py data/flickr8k --runs runs --device cuda --parallel 3
    python scripts/reproduce_flickr8k.py data/flickr8k --runs runs --device cuda --parallel 3 \
        --init-from runs/mean/model --everyday "coco:captions_{split}.json@photos" \
        --text text.tsv

The first command trains on Flickr8k only, so its scores can be compared with published ones. The
second continues with everyday photos that have the splits train and val, and with captions without
images, and saves its model into the package. The settings of the runs are those of the recipe
``default-model``.

Steps of the first command:

1. ``decoder``: teacher forcing on cached features of a frozen encoder.
2. ``live_0``, ``live_1``, ``live_2``: three runs from ``decoder``. Teacher forcing of the decoder
   and all encoder stages with online augmentation.
3. ``mean``: mean of the weights of these three.
4. ``concepts``: teacher forcing of a decoder with concepts, on cached features of the encoder of
   ``mean``.
5. ``reward_0``, ``reward_1``: two runs from ``concepts`` with self-critical training. The encoder
   is frozen. The features of each image, of four crops, and of flipped views are cached.
6. ``last``: weighted mean of ``concepts`` and these two.

Steps of the second command. Their names begin with ``everyday_``:

1. ``live``: like ``live_0``, from the model of --init-from, on both data sets, with the last five
   encoder stages and an extended vocabulary.
2. ``concepts``: as above, with --text also on captions without images.
3. ``mean``: weighted mean of ``concepts`` and the model of --init-from. It keeps the scores of the
   first on everyday photos, and those of the second on Flickr8k. Rewards after it gained nothing
   (docs/experiments.md).

The model of --init-from must not have concepts. That of the package was made in this way from an
earlier one.

Then n-gram reranking is fitted and the search is chosen. Times and scores of the runs are in
docs/experiments.md ("The default model by one command").

The same command resumes an interrupted one, also on another machine or device if the runs are
copied and the data sets have the same names. ``decoder`` takes 40 to 60 minutes on two cores, the
other steps of the first command 13 minutes on one H200 GPU. Two cores can also do them, except
``live_*``, which need a GPU: one core trains on 16 captions per second, 1.5 hours per epoch. The
second command takes 2.5 hours on two cores.
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

from make_default_model import LIMITS, make_default_model

from captioning.checkpoint import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from captioning.cli import train
from captioning.decoding import BeamSearch
from captioning.errors import CaptioningError, ConfigError, TrainingError
from captioning.inference.captioner import DEFAULT_MODEL
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.device import resolve_device
from captioning.nn.encoder_config import EncoderConfig, Precision
from captioning.nn.weight_average import average_weights, extend_like
from captioning.training.config import RunConfig
from captioning.training.precision import select_precision
from captioning.training.recipes import read_run_file
from captioning.training.run_directory import check_run_directory, read_settings
from captioning.training.training_config import TrainingConfig

STAGES = read_run_file("default-model").stages
ENCODER = STAGES["teacher-forcing"]["encoder"]
DECODER = STAGES["teacher-forcing"]["decoder"]
DECODER_TRAINING = STAGES["teacher-forcing"]["training"]
LIVE = STAGES["fine-tuning"]["training"]
CONCEPTS = STAGES["concepts"]["decoder"].concepts
CONCEPT_TRAINING = STAGES["concepts"]["training"]
REWARD = STAGES["self-critical"]["training"]
ENCODER_LR_SCALES = (0.3, 0.4, 0.5)  # of live_0, live_1 and live_2
EVERYDAY_LIVE = replace(
    LIVE, fine_tune_stages=5, epochs=3, learning_rate=5e-4, warmup_steps=40, ema_decay=0.99
)
BLEU_WEIGHTS = (0.5, 0.2)  # of reward_0 and reward_1
SHARES = (0.65, 0.2, 0.15)  # of concepts, reward_0 and reward_1 in last
MEAN_SHARES = (0.3, 0.7)  # of the model of --init-from and of concepts
TEXT_WEIGHT = 0.1  # passes over the captions without images per epoch


@dataclass(frozen=True)
class Blend:
    """A weighted mean of the weights of models.

    Attributes:
        output: Directory of the mean; its model is in ``model``, like that of a run.
        shares: Directory and share of each model. The words of a model are the first words of the
            last model.
    """

    output: Path
    shares: Mapping[Path, float]

    def build(self) -> Checkpoint:
        """Return the mean, with the info of the last model and a line about the mean.

        Raises:
            ConfigError: The models have different vocabularies or shapes.
        """
        found = [load_checkpoint(directory) for directory in self.shares]
        last = found[-1]
        words = last.vocabulary.words
        if any(each.vocabulary.words != words[: len(each.vocabulary)] for each in found):
            raise ConfigError(
                f"{', '.join(map(str, self.shares))} have different vocabularies. Use models that "
                "were trained from the same initial model."
            )
        mixed = " + ".join(
            f"{share:g} {directory.parent.name if directory.name == 'model' else directory.name}"
            for directory, share in self.shares.items()
        )
        training = last.info.training
        assert training is not None  # every training run writes it
        runs = (*training.runs, f"weighted mean of models: {mixed}")
        models = [extend_like(each.model, last.model) for each in found]
        model = average_weights(models, list(self.shares.values()))
        info = replace(last.info, training=replace(training, runs=runs), search_chosen=False)
        # A reranker fits only the features of its own model.
        return replace(last, model=model, search=BeamSearch(width=3), info=info, reranker=None)


Step = RunConfig | Blend


def recipe(flickr8k: str, folder: Path, device: str) -> list[list[Step]]:
    """Return the steps that train on Flickr8k, in groups of independent steps.

    The last step gives the model.

    Args:
        flickr8k: Data set, such as ``flickr8k:DIR``.
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
    lives = [
        set_live(
            replace(following, init_from=decoder.output / "model", output=folder / f"live_{seed}"),
            replace(LIVE, seed=seed, encoder_lr_scale=rate),
        )
        for seed, rate in enumerate(ENCODER_LR_SCALES)
    ]
    mean = Blend(folder / "mean", {each.output / "model": 1 / len(lives) for each in lives})
    concepts = replace(
        following,
        init_from=mean.output / "model",
        decoder=DecoderConfig(concepts=CONCEPTS),
        training=CONCEPT_TRAINING,
        output=folder / "concepts",
    )
    return [[decoder], [*lives], [mean], [concepts], *reward_steps(concepts, folder)]


def everyday_recipe(
    flickr8k: str, everyday: str, text: Path | None, first: Path, folder: Path, device: str
) -> list[list[Step]]:
    """Return the steps that continue with everyday photos, in groups of independent steps.

    Args:
        flickr8k: Data set, such as ``flickr8k:DIR``.
        everyday: Data set with the splits train and val.
        text: File of captions without images, or None.
        first: Directory of the initial model, without concepts.
        folder: Directory of the runs.
        device: Device that trains.
    """
    start = RunConfig(
        data=(flickr8k, everyday),
        data_weights=(1.0, 2.0),
        cache=folder / "features",
        init_from=first,
        output=folder / "everyday_live",
        extend_vocabulary=True,
        search_images=0,
        device=device,
    )
    live = set_live(start, EVERYDAY_LIVE)
    concepts = replace(
        start,
        init_from=live.output / "model",
        decoder=DecoderConfig(concepts=CONCEPTS),
        text_data=text,
        text_weight=TEXT_WEIGHT,
        extend_vocabulary=text is not None,
        min_count=20,
        training=CONCEPT_TRAINING,
        output=folder / "everyday_concepts",
    )
    own, new = MEAN_SHARES
    mean = Blend(folder / "everyday_mean", {first: own, concepts.output / "model": new})
    return [[live], [concepts], [mean]]


def set_live(step: RunConfig, training: TrainingConfig) -> RunConfig:
    """Return a step with online augmentation, in the fastest precision of its device."""
    precision = select_run_precision(step.output, step.device)
    return replace(step, training=replace(training, precision=precision))


def reward_steps(before: RunConfig, folder: Path) -> list[list[Step]]:
    """Return two runs with self-critical training, and the mean of their weights.

    Args:
        before: The step from whose model they start.
        folder: Directory of the runs.
    """
    initial = before.output / "model"
    rewards = [
        replace(
            before,
            init_from=initial,
            decoder=DecoderConfig(),
            output=folder / f"reward_{seed}",
            training=replace(
                REWARD, seed=seed, self_critical=replace(REWARD.self_critical, bleu_weight=bleu)
            ),
        )
        for seed, bleu in enumerate(BLEU_WEIGHTS)
    ]
    models = [initial, *(each.output / "model" for each in rewards)]
    return [[*rewards], [Blend(folder / "last", dict(zip(models, SHARES, strict=True)))]]


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
        help="Data set of everyday photos with the splits train and val. Needs --init-from.",
    )
    parser.add_argument("--init-from", type=Path, help="Model that --everyday starts from.")
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
    if bool(everyday) != bool(arguments.init_from) or (arguments.text and not everyday):
        parser.error("--everyday needs --init-from, and --init-from and --text need --everyday.")
    data, folder, device = f"flickr8k:{arguments.flickr8k}", arguments.runs, arguments.device
    own = DEFAULT_MODEL if everyday else folder / "model_flickr8k"
    try:
        if everyday:
            first, text = arguments.init_from, arguments.text
            steps = everyday_recipe(data, everyday, text, first, folder, device)
        else:
            steps = recipe(data, folder, device)
        for group in steps:
            run_all(group, arguments.parallel)
        model = load_checkpoint(steps[-1][-1].output / "model")
        trained_on = next(step.data for step in steps[-2] if isinstance(step, RunConfig))
        limits = LIMITS if everyday else ModelInfo().limits
        make_default_model(model, trained_on, arguments.output or own, limits)
    except CaptioningError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
