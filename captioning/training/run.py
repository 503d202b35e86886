"""A training run, from the config to a model directory. An interrupted run can be resumed."""

import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from captioning.checkpoint import Checkpoint, ModelInfo, TrainingInfo, save_checkpoint
from captioning.decoding import BeamSearch, Greedy
from captioning.errors import TrainingError
from captioning.evaluation.validation import caption_features
from captioning.messages import format_count
from captioning.metrics import score
from captioning.metrics.scores import SCORE_NAMES
from captioning.nn.model import CaptionModel
from captioning.nn.split_encoder import split_encoder
from captioning.training.callback import EpochSummary, TrainingCallback
from captioning.training.config import RunConfig
from captioning.training.log import TrainingLog
from captioning.training.model_info import describe_data, describe_run
from captioning.training.prepare import Prepared, prepare
from captioning.training.run_directory import (
    check_run_directory,
    lock_run_directory,
    write_settings,
)
from captioning.training.run_state import (
    BestEpoch,
    CaptionsId,
    RunState,
    load_state,
    save_state,
)
from captioning.training.search_choice import choose_search
from captioning.training.self_critical import SelfCriticalObjective
from captioning.training.trainer import Trainer

_MODEL = "model"
_NO_CALLBACK = TrainingCallback()


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        model_dir: Model directory of the best epoch.
        best_epoch: Number of the best epoch, from 1.
        best_value: The validation score that selected it.
        scores: All validation scores of its greedy captions, such as ``{"CIDEr": 0.5}``.
        resumed: Whether the run continued from a saved state.
    """

    model_dir: Path
    best_epoch: int
    best_value: float
    scores: dict[str, float] = field(default_factory=dict)
    resumed: bool = False

    def _repr_html_(self) -> str:
        cells = "".join(f"<td>{name} {value:.3f}</td>" for name, value in self.scores.items())
        return f"<table><tr><th>epoch {self.best_epoch}</th>{cells}</tr></table>"


def train(config: RunConfig, callback: TrainingCallback = _NO_CALLBACK) -> TrainResult:
    """Train a captioning model. The same call on the same directory resumes an interrupted run.

    Args:
        config: The run. It is saved in the directory, and only the same config resumes the run.
        callback: Receives progress and messages.

    Raises:
        DataError: The captions or images cannot be used.
        WeightsError: The encoder's weights are not available.
        CheckpointError: The initial model cannot be loaded.
        ConfigError: The config does not fit the encoder, the decoder, or this machine.
        TrainingError: The directory holds another run, another process trains in it, or the loss
            diverged.
        OutputError: The state or the model cannot be written.
    """
    check_run_directory(config)
    prepared = prepare(config, callback)  # before the directory exists: the data may be wrong
    with lock_run_directory(config.output):
        check_run_directory(config)  # another process may have started a run meanwhile
        write_settings(config)
        run = _Run(config, prepared, callback)
        run.resume()
        run.train_epochs()
        choose_search(run.model_dir, config, prepared, callback)
        return run.result()


class _Run:
    """The epochs of a run, with validation, log, and saved state."""

    def __init__(self, config: RunConfig, prepared: Prepared, callback: TrainingCallback) -> None:
        self.config = config
        self.prepared = prepared
        self.callback = callback
        self.trainer = _create_trainer(config, prepared, callback)
        self.captions = CaptionsId.create(len(prepared.dataset), prepared.vocabulary)
        self.model_dir = config.output / _MODEL
        self.best = BestEpoch()
        self.resumed = False
        self._started = time.monotonic()

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def resume(self) -> None:
        """Continue from the saved state, if there is one."""
        state = load_state(self.config.output, self.captions)
        if state is None:
            return
        self.trainer.load_state_dict(state.trainer)
        self.best = state.best
        self.resumed = True
        self._started -= state.seconds
        step, steps = self.trainer.position.step, self.trainer.steps
        self.callback.on_message(
            "The run is already complete."
            if step == steps
            else f"Resuming from step {step} of {steps}."
        )
        self.callback.on_resume(step, steps)

    def train_epochs(self) -> None:
        """Train, validate, and keep the model of the best epoch, until the last epoch."""
        with TrainingLog(self.config.output, step=self.trainer.position.step) as log:
            while not (self.trainer.finished or self._out_of_patience()):
                self.callback.on_phase("Training")
                summary = self.trainer.train_epoch(
                    on_step=self.callback.on_step, save_state=self._save
                )
                captions = self._caption_validation()
                scores = self._score(captions)
                self._record(log, summary, scores)
                self._keep_if_best(summary, scores)
                self._report_data_sets(captions)
                self._save()
        if self._out_of_patience():
            training = self.config.training
            self.callback.on_message(
                f"Stopping early: no better {training.select_by} for "
                f"{format_count(training.patience, 'epoch')}."
            )
        if not self.model_dir.is_dir():
            raise TrainingError(
                f"the run is finished, but '{self.model_dir}' does not exist. Move the model back, "
                "or train again with another output."
            )

    def result(self) -> TrainResult:
        """Return the result of the run."""
        best = self.best
        return TrainResult(self.model_dir, best.epoch, best.value, best.scores, self.resumed)

    def _save(self) -> None:
        state = RunState(self.trainer.state_dict(), self.captions, self.best, self._seconds)
        save_state(state, self.config.output)

    def _out_of_patience(self) -> bool:
        patience = self.config.training.patience
        return bool(patience) and self.trainer.position.epoch - self.best.epoch >= patience

    def _caption_validation(self) -> dict[int, str]:
        """Return the greedy captions of the validation images by their rows."""
        self.callback.on_phase("Captioning validation images")
        split = self.prepared.validation
        rows = split.readable
        texts = caption_features(
            self.trainer.model_to_save,
            split.cache,
            rows,
            self.prepared.vocabulary,
            Greedy(),
            on_progress=self.callback.on_progress,
        )
        return dict(zip(rows, texts, strict=True))

    def _report_data_sets(self, captions: dict[int, str]) -> None:
        """Report the validation scores of each data set, if there are several."""
        sources = self.prepared.validation.sources
        start = 0
        for name, count in sources if len(sources) > 1 else ():
            own = {row: text for row, text in captions.items() if start <= row < start + count}
            self.callback.on_message(f"  {name}: {_format_scores(self._score(own))}")
            start += count

    def _score(self, captions: dict[int, str]) -> dict[str, float]:
        self.callback.on_phase("Scoring captions")
        references = {row: list(self.prepared.validation.captions[row]) for row in captions}
        scores = score(captions, references)
        return {SCORE_NAMES[name]: value for name, value in scores.values.items()}

    def _record(self, log: TrainingLog, summary: EpochSummary, scores: dict[str, float]) -> None:
        known = {name: value for name, value in vars(summary).items() if value is not None}
        values = {**known, "seconds": self._seconds}
        del values["step"]
        log.write(summary.step, "train", values)
        log.write(summary.step, "val", {"epoch": summary.epoch, **scores})

    def _keep_if_best(self, summary: EpochSummary, scores: dict[str, float]) -> None:
        value = scores[self.config.training.select_by]
        better = value > self.best.value
        self.trainer.schedule.report_epoch(better=better)
        self.callback.on_message(
            f"Epoch {summary.epoch}: loss {summary.loss:.3f}, perplexity {summary.perplexity:.1f}, "
            f"{'' if summary.reward is None else f'reward {summary.reward:.3f}, '}"
            f"{summary.captions_per_second:.0f} captions/s; greedy search: {_format_scores(scores)}"
            f"{' (best so far)' if better else ''}"
        )
        if better:
            self.best = BestEpoch(summary.epoch, value, scores)
            save_checkpoint(self._checkpoint(summary, scores), self.model_dir)

    def _checkpoint(self, summary: EpochSummary, scores: dict[str, float]) -> Checkpoint:
        config, prepared = self.config, self.prepared
        images, captions = len(prepared.train.readable), len(prepared.dataset)
        validated = format_count(len(prepared.validation.readable), "image")
        info = ModelInfo(
            training=TrainingInfo(
                data=describe_data(config, images, captions),
                epochs=summary.epoch,
                seed=config.training.seed,
                torch=torch.__version__,
                runs=(*prepared.history, describe_run(config, summary)),
            ),
            scores={
                f"{name} (greedy, {config.validation_split}, {validated})": round(value, 4)
                for name, value in scores.items()
            },
        )
        trained = self.trainer.model_to_save
        encoder = prepared.encoder
        if trained.tail is not None:
            encoder = copy.deepcopy(encoder)
            tail = split_encoder(encoder, config.training.fine_tune_stages)[1]
            tail.load_state_dict(trained.tail.state_dict())
        model = CaptionModel(encoder, trained.decoder)
        return Checkpoint(model, prepared.vocabulary, BeamSearch(width=3), info)


def _create_trainer(config: RunConfig, prepared: Prepared, callback: TrainingCallback) -> Trainer:
    objective = None
    if config.training.objective == "self_critical":
        callback.on_phase("Preparing rewards")
        objective = SelfCriticalObjective(
            prepared.words, prepared.vocabulary, config.training.self_critical
        )
    return Trainer(
        prepared.decoder,
        prepared.dataset,
        prepared.train.cache,
        config.training,
        tail=prepared.tail,
        self_critical=objective,
    )


def _format_scores(scores: dict[str, float]) -> str:
    """Return BLEU-4 and CIDEr times 100, as the tables of scores show them."""
    bleu, cider = scores["BLEU-4"], scores.get("CIDEr", math.nan)
    return f"BLEU-4 {100 * bleu:.2f}, CIDEr {100 * cider:.2f}"
