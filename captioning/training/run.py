"""A training run, from the config to a model directory. An interrupted run can be resumed."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from captioning.checkpoint import Checkpoint, save_checkpoint
from captioning.checkpoint.save import recover_checkpoint
from captioning.errors import TrainingError
from captioning.messages import format_count
from captioning.processes import (
    broadcast_object,
    connect_processes,
    fail_together,
    is_main_process,
    process_count,
    wait_for_processes,
)
from captioning.training.callback import (
    TrainingCallback,
    TrainingSummary,
    TrainResult,
    describe_epoch,
)
from captioning.training.config import RunConfig
from captioning.training.epoch_checkpoints import (
    LAST_MODEL,
    MODEL,
    copy_logs,
    keep_checkpoint,
    load_best,
)
from captioning.training.epoch_validation import (
    ValidatedCaptions,
    format_scores,
    report_data_sets,
    validate,
)
from captioning.training.log import STEPS, NoLog, TrainingLog
from captioning.training.prepare import Prepared, prepare
from captioning.training.run_directory import (
    check_run_directory,
    list_settings,
    lock_run_directory,
    write_settings,
)
from captioning.training.run_model import build_checkpoint, create_trainer, update_license
from captioning.training.run_state import (
    BestEpoch,
    CaptionsId,
    RunState,
    load_state,
    save_state,
)
from captioning.training.samples import SampleCaptions, write_samples
from captioning.training.search_choice import choose_search
from captioning.training.trackers import Trackers, check_trackers

_NO_CALLBACK = TrainingCallback()


def train(config: RunConfig, callback: TrainingCallback = _NO_CALLBACK) -> TrainResult:
    """Train a captioning model. The same call on the same directory resumes an interrupted run.

    In a job of torchrun or ``accelerate launch``, all processes call it, and share each batch.

    Args:
        config: The run. It is saved in the directory. A run is resumed with the same config, except
            for its length (epochs, patience), its speed (workers, device) and what it writes.
        callback: Receives progress and messages.

    Raises:
        DataError: The captions or images cannot be used.
        WeightsError: The encoder's weights are not available.
        CheckpointError: The initial model cannot be loaded.
        ConfigError: The config does not fit the encoder, the decoder, or this machine.
        TrainingError: The directory holds another run, another process trains in it, or the loss
            diverged.
        TrainingStoppedError: ``callback.should_stop`` returned True. The state is saved.
        OutputError: The state or the model cannot be written.
    """
    connect_processes(config.device)
    callback = callback.for_process()
    if process_count() > 1:
        callback.on_message(f"Training in {process_count()} processes.")
    with fail_together():
        check_trackers(config.trackers)
        check_run_directory(config)  # before the data are read
        prepared = prepare(config, callback)  # before the directory exists: the data may be wrong
    with ExitStack() as stack:
        changes = ""
        with fail_together():
            if is_main_process():
                stack.enter_context(lock_run_directory(config.output))
                changes = check_run_directory(config)  # another run may have started meanwhile
                write_settings(config, config.output)
                recover_checkpoint(config.output / MODEL)
        run = _Run(config, prepared, callback)
        run.resume(changes)
        run.train_epochs()
        with fail_together():
            if is_main_process():
                choose_search(run.model_dir, config, prepared, callback)
                if run.resumed:
                    update_license(run.model_dir, config.license)
        return run.result()


class _Run:
    """The epochs of a run, with validation, log, and saved state."""

    def __init__(self, config: RunConfig, prepared: Prepared, callback: TrainingCallback) -> None:
        self.config = config
        self.prepared = prepared
        self.callback = callback
        self.trainer = create_trainer(config, prepared, callback)
        self.samples = SampleCaptions(prepared.validation)
        self.captions = CaptionsId.create(len(prepared.dataset), prepared.vocabulary)
        self.model_dir = config.output / MODEL
        self.best = BestEpoch()
        self._last: dict[str, float] | None = None  # scores of the last epoch trained here
        self.resumed = False
        self._started = time.monotonic()

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def resume(self, changes: str) -> None:
        """Continue from the saved state, or from the run or checkpoint of ``config.resume``."""
        source = None
        with fail_together():
            if is_main_process():
                source = self._load()
        # All processes start from the same state.
        state, self.best, self.resumed, source = broadcast_object(
            (self.trainer.state_dict(), self.best, self.resumed, source)
        )
        if not is_main_process():
            self.trainer.load_state_dict(state)
        if not self.resumed:
            return
        step, steps = self.trainer.position.step, self.trainer.steps
        if source is not None:
            self._take_over(source)
        out_of_epochs = self.trainer.position.epoch >= self.config.training.epochs
        limit = "epochs" if out_of_epochs else "max-steps"
        self.callback.on_message(
            f"The run is already complete. Set a larger --training.{limit} to continue it."
            if self.trainer.finished
            else f"Resuming from step {step} of {steps}."
        )
        if changes and not self.trainer.finished:
            rate = self.trainer.schedule.rate_at(step)
            self.callback.on_message(
                f"Changed settings: {changes}. The learning rate follows the schedule of "
                f"{steps} steps from step {step + 1} on (now {rate:.3g})."
            )
        self.callback.on_resume(step, steps)

    def _load(self) -> Path | None:
        """Load the saved state, and return the run or checkpoint that it comes from if another."""
        state = load_state(self.config.output, self.captions)
        source = self.config.resume if state is None else None
        if source is not None:
            state = load_state(source, self.captions)
            if state is None:
                raise TrainingError(f"'{source}' has no saved state yet. Use another run.")
        if state is not None:
            self.trainer.load_state_dict(state.trainer)
            self.best = state.best
            self.resumed = True
            self._started -= state.seconds
        return source

    def _take_over(self, source: Path) -> None:
        """Start this run with the log and the best model of another one."""
        best = load_best(source, self.best)
        if is_main_process():
            copy_logs(source, self.config.output)
        if best is not None:
            self._save_model(best)
        elif self.best.scores:
            epoch, lost = self.trainer.position.epoch, self.best.epoch
            validated = validate(self.trainer.model_to_save, self.prepared, self.callback)
            self._keep(epoch, validated.scores)
            self.callback.on_message(
                f"The model of the best epoch ({lost}) was removed. That of epoch {epoch} is the "
                f"best so far: {format_scores(validated.scores)}"
            )
        self._save()

    def train_epochs(self) -> None:
        """Train, validate, and keep the model of the best epoch, until the last epoch."""
        fresh = not self.resumed
        with self._open_log() as log:
            if fresh and self.config.init_from is not None:
                self._keep_initial(log)
            while not (self.trainer.finished or self._out_of_patience()):
                self.callback.on_phase("Training")
                summary = self.trainer.train_epoch(
                    on_step=self.callback.on_step,
                    on_log=partial(self._log, log, STEPS),
                    save_state=self._save,
                    should_stop=self.callback.should_stop,
                )
                validated = validate(self.trainer.model_to_save, self.prepared, self.callback)
                self._log(log, "train", summary)
                log.write(summary.step, "val", {"epoch": summary.epoch, **validated.log_values})
                if is_main_process():
                    samples = self.samples.select(validated.captions)
                    log.write_samples(summary.step, samples)
                    write_samples(self.config.output / "samples.html", summary.epoch, samples)
                self._keep_if_best(summary, validated)
                report_data_sets(validated, self.prepared, self.callback)
                if self.config.keep_checkpoints and is_main_process():
                    checkpoint = self._checkpoint(summary.epoch, validated.scores)
                    keep_checkpoint(checkpoint, self._state(), self.config, summary.epoch)
                self._save()
        if self._out_of_patience():
            training = self.config.training
            self.callback.on_message(
                f"Stopping early: no better {training.select_by} for "
                f"{format_count(training.patience, 'epoch')}. A larger --training.patience "
                "continues the run."
            )
        if self.config.init_from is not None and self.best.epoch == 0:
            self._report_initial_is_best()
        wait_for_processes()  # the main process saves the model
        if not self.model_dir.is_dir():
            raise TrainingError(
                f"the run is finished, but '{self.model_dir}' does not exist. Move the model back, "
                "or train again with another output."
            )

    def _report_initial_is_best(self) -> None:
        """Keep the model of the last epoch too: a following run may need it.

        Teacher forcing of a model that was trained with rewards lowers its scores at first.
        """
        last = self.config.output / LAST_MODEL
        if self._last is not None and is_main_process():
            save_checkpoint(self._checkpoint(self.trainer.position.epoch, self._last), last)
        kept = f" The model of the last epoch is in '{last}'." if last.is_dir() else ""
        self.callback.on_message(
            "Warning: no epoch is better than the initial model, so the initial model is the "
            f"result.{kept} Try another --training.learning-rate (usually a lower one helps)."
        )

    def result(self) -> TrainResult:
        """Return the result of the run."""
        best = self.best
        return TrainResult(self.model_dir, best.epoch, best.value, best.scores, self.resumed)

    def _open_log(self) -> NoLog:
        position, fresh = self.trainer.position, not self.resumed
        if not is_main_process():
            return NoLog()
        config = self.config
        return TrainingLog(
            config.output,
            epoch=-1 if fresh else position.epoch,
            step=-1 if fresh else position.step,
            trackers=Trackers(config.trackers, config.output, list_settings(config)),
        )

    def _save(self) -> None:
        if is_main_process():
            save_state(self._state(), self.config.output)

    def _save_model(self, checkpoint: Checkpoint) -> None:
        if is_main_process():
            save_checkpoint(checkpoint, self.model_dir)

    def _state(self) -> RunState:
        return RunState(self.trainer.state_dict(), self.captions, self.best, self._seconds)

    def _out_of_patience(self) -> bool:
        patience = self.config.training.patience
        return bool(patience) and self.trainer.position.epoch - self.best.epoch >= patience

    def _log(self, log: NoLog, split: str, summary: TrainingSummary) -> None:
        known = {name: value for name, value in vars(summary).items() if value is not None}
        values = {**known, "seconds": self._seconds}
        del values["step"]
        log.write(summary.step, split, values)

    def _keep_initial(self, log: NoLog) -> None:
        """Validate the initial model, and keep it until an epoch is better."""
        validated = validate(self.trainer.model_to_save, self.prepared, self.callback)
        log.write(0, "val", {"epoch": 0, **validated.log_values})
        self.callback.on_message(f"Epoch 0 (initial model): greedy search: {validated}")
        self._keep(0, validated.scores)
        self._save()

    def _keep_if_best(self, summary: TrainingSummary, validated: ValidatedCaptions) -> None:
        scores = self._last = validated.scores
        better = scores[self.config.training.select_by] > self.best.value
        self.trainer.schedule.report_epoch(better=better)
        self.callback.on_message(
            f"{describe_epoch(summary)}; greedy search: {validated}"
            f"{' (best so far)' if better else ''}"
        )
        if better:
            self._keep(summary.epoch, scores)

    def _keep(self, epoch: int, scores: dict[str, float]) -> None:
        """Save the current model as the result of the run."""
        self.best = BestEpoch(epoch, scores[self.config.training.select_by], scores)
        self._save_model(self._checkpoint(epoch, scores))

    def _checkpoint(self, epoch: int, scores: dict[str, float]) -> Checkpoint:
        model = self.trainer.model_to_save
        return build_checkpoint(model, self.config, self.prepared, epoch, scores)
