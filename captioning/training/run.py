"""A training run from a data set's name to a model directory, which survives being killed."""

import copy
import hashlib
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from captioning.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.checkpoint.model_info import ModelInfo, TrainingInfo
from captioning.decoding import BeamSearch, Greedy
from captioning.errors import OutputError, TrainingError
from captioning.evaluation.search_sweep import fit_reranker, with_best_search
from captioning.evaluation.validation import caption_features
from captioning.features.cached_model import CachedModel
from captioning.messages import format_count
from captioning.metrics import score
from captioning.metrics.scores import SCORE_NAMES
from captioning.nn.model import CaptionModel
from captioning.nn.split_encoder import cut
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
from captioning.training.self_critical import SelfCritical
from captioning.training.trainer import Trainer

_STATE = "state.pt"
_AGAIN = "Give the same command again to go on."
_MODEL = "model"


@dataclass(frozen=True)
class _Best:
    """The best epoch so far."""

    epoch: int = 0
    value: float = float("-inf")


def train(config: RunConfig, callback: TrainingCallback | None = None) -> Path:
    """Train a captioner; the same call on the same directory goes on where a killed run was.

    Args:
        config: All settings. They are written into the directory, and a run is only continued
            under the same ones.
        callback: Told how it goes.

    Returns:
        The model directory of the best epoch.

    Raises:
        DataError: The captions or images cannot be used.
        WeightsError: The encoder's weights cannot be had.
        CheckpointError: The model to start from cannot be loaded.
        TrainingError: The directory holds a run with other settings or on other captions, another
            process trains in it, or the loss diverged.
        OutputError: The state or the model cannot be written.
    """
    callback = callback or TrainingCallback()
    check_run_directory(config)
    prepared = prepare(config, callback)  # a slip in the name of the data claims no directory
    with lock_run_directory(config.output):
        check_run_directory(config)  # another run may have begun there meanwhile
        write_settings(config)
        trainer = Trainer(
            prepared.decoder,
            prepared.dataset,
            prepared.train.cache,
            config.training,
            tail=prepared.tail,
            self_critical=_self_critical(config, prepared),
        )
        run = _Run(config, prepared, trainer, callback)
        run.resume()
        return run.finish()


def _self_critical(config: RunConfig, prepared: Prepared) -> SelfCritical | None:
    if config.training.objective == "cross_entropy":
        return None
    return SelfCritical(prepared.words, prepared.vocabulary, config.training.self_critical)


class _Run:
    """The loop over epochs with its validation, its log and its saved state."""

    def __init__(
        self, config: RunConfig, prepared: Prepared, trainer: Trainer, callback: TrainingCallback
    ) -> None:
        self.config = config
        self.prepared = prepared
        self.trainer = trainer
        self.callback = callback
        self.best = _Best()
        self.seconds = 0.0  # of sessions before this one
        self.started = time.monotonic()
        self.taught = _taught(prepared)

    @property
    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        path = self.config.output / _STATE
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._check_taught(state.get("taught", self.taught))  # runs of old did not say
            self.trainer.load_state_dict(state["trainer"])
        except TrainingError:
            raise
        except Exception as error:  # torch.load raises many kinds for a damaged file
            raise TrainingError(
                f"{path} cannot be read ({error}), so the run cannot go on. Remove that file to "
                "start this run afresh."
            ) from error
        self.best = _Best(*state["best"])
        self.seconds = state["seconds"]
        step, steps = self.trainer.position.step, self.trainer.steps
        self.callback.on_message(f"going on after batch {step} of {steps}")
        self.callback.on_resume(step, steps)

    def _check_taught(self, before: dict[str, Any]) -> None:
        """Refuse to go on with other captions, whose words would get each other's weights."""
        if before == self.taught:
            return
        then, now = (
            f"{taught['captions']} captions with {taught['words']} words"
            for taught in (before, self.taught)
        )
        raise TrainingError(
            f"{self.config.output} holds a run on other captions: {then} when it began, {now} now"
            f"{', not all of them the same' if then == now else ''}. Put back the captions or "
            "images that it began with to go on with it, or give another output to start afresh."
        )

    def save(self) -> None:
        """Write the state, so that it is there whole or as it was before.

        Raises:
            OutputError: It cannot be written.
        """
        state = {
            "trainer": self.trainer.state_dict(),
            "best": [self.best.epoch, self.best.value],
            "seconds": self._elapsed,
            "taught": self.taught,
        }
        path = self.config.output / _STATE
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # the latter is how torch says: disk full
            temporary.unlink(missing_ok=True)
            raise OutputError(
                f"{path} cannot be written, and is as it was ({error}). Make room. {_AGAIN}"
            ) from error

    def finish(self) -> Path:
        """Train what is left and return the model directory of the best epoch."""
        step = self.trainer.position.step
        with TrainingLog(self.config.output, step=step) as log:
            while not (self.trainer.finished or self._patience_is_over()):
                summary = self.trainer.train_epoch(watch=self.callback.on_step, save=self.save)
                scores = self._validate()
                self._record(log, summary, scores)
                self.save()
        if self._patience_is_over():
            self.callback.on_message(
                f"stopped: no better {self.config.training.select_by} for "
                f"{self.config.training.patience} epochs"
            )
        model = self.config.output / _MODEL
        if not model.is_dir():
            raise TrainingError(
                f"{model} is not there any more, and the run is over. Move it back, or give "
                "another output to train it again."
            )
        self._choose_search(model)
        return model

    def _choose_search(self, model: Path) -> None:
        """Store the search that suits the best epoch's model; once."""
        split = self.prepared.validation
        count = min(self.config.search_images, len(split.readable))
        if not count:
            return
        checkpoint = load_checkpoint(model, device=self.config.device)
        if checkpoint.info.search_chosen:
            self.callback.on_message("its search was chosen before, and stays, as do its phrases")
            return
        name = self.config.validation_split
        self.callback.on_message(f"choosing the search on {format_count(count, 'image')} of {name}")
        spread = [split.readable[i * len(split.readable) // count] for i in range(count)]
        tail = None
        if self.trainer.trained.tail is not None:
            tail = cut(checkpoint.model.encoder, self.config.training.fine_tune_stages)[1]
        cached_model = CachedModel(checkpoint.model.decoder, tail)
        if most := self.config.rerank_ngrams:
            train = format_count(len(self.prepared.train.readable), "image")
            self.callback.on_message(f"learning what v makes likely of {train}")
            reranker = fit_reranker(
                cached_model,
                self.prepared.train.cache,
                self.prepared.words,
                checkpoint.vocabulary,
                max_ngrams=most,
            )
            if reranker is not None:
                learned = format_count(len(reranker), "n-gram")
                self.callback.on_message(f"learned {learned} for reranking")
            checkpoint = replace(checkpoint, reranker=reranker)
        chosen = with_best_search(
            checkpoint,
            cached_model,
            split.cache,
            {place: split.captions[place] for place in spread},
            name=f"{name}, {format_count(count, 'image')}",
            say=self.callback.on_message,
        )
        save_checkpoint(chosen, model)

    def _patience_is_over(self) -> bool:
        patience = self.config.training.patience
        return bool(patience) and self.trainer.position.epoch - self.best.epoch >= patience

    def _validate(self) -> dict[str, float]:
        """Score greedy captions of the validation split, and say each data set's own score."""
        split = self.prepared.validation
        places = split.readable
        found = caption_features(
            self.trainer.trained, split.cache, places, self.prepared.vocabulary, Greedy()
        )
        captions = dict(zip(places, found, strict=True))
        if len(split.sources) > 1:
            start = 0
            for name, count in split.sources:
                own = {p: c for p, c in captions.items() if start <= p < start + count}
                scores = self._scores(own)
                cider = scores.get("CIDEr", math.nan)
                self.callback.on_message(
                    f"{name}: BLEU-4 {scores['BLEU-4']:.3f}, CIDEr {cider:.3f}"
                )
                start += count
        return self._scores(captions)

    def _scores(self, captions: dict[int, str]) -> dict[str, float]:
        references = {place: list(self.prepared.validation.captions[place]) for place in captions}
        scores = score(captions, references)
        return {SCORE_NAMES[name]: value for name, value in scores.values.items()}

    def _record(self, log: TrainingLog, summary: EpochSummary, scores: dict[str, float]) -> None:
        """Log an epoch, and keep its model when it is the best so far."""
        values = {
            "epoch": summary.epoch,
            "loss": summary.loss,
            "perplexity": summary.perplexity,
            "learning_rate": summary.learning_rate,
            "gradient_norm": summary.gradient_norm,
            "captions_per_second": summary.captions_per_second,
            "seconds": self._elapsed,
        }
        if summary.reward is not None:
            values["reward"] = summary.reward
        log.write(summary.step, "train", values)
        log.write(summary.step, "val", {"epoch": summary.epoch, **scores})
        value = scores[self.config.training.select_by]
        better = value > self.best.value
        self.callback.on_message(
            f"epoch {summary.epoch}: loss {summary.loss:.3f}, perplexity {summary.perplexity:.1f}, "
            f"{'' if summary.reward is None else f'reward {summary.reward:.3f}, '}"
            f"{summary.captions_per_second:.0f} captions/s; greedy BLEU-4 {scores['BLEU-4']:.3f}, "
            f"CIDEr {scores.get('CIDEr', math.nan):.3f}{' (best so far)' if better else ''}"
        )
        if better:
            self.best = replace(self.best, epoch=summary.epoch, value=value)
            save_checkpoint(self._checkpoint(summary, scores), self.config.output / _MODEL)

    def _checkpoint(self, summary: EpochSummary, scores: dict[str, float]) -> Checkpoint:
        config = self.config
        info = ModelInfo(
            training=TrainingInfo(
                data=describe_data(config, self.prepared),
                epochs=summary.epoch,
                seed=config.training.seed,
                torch=torch.__version__,
                runs=(*self.prepared.history, describe_run(config, summary)),
            ),
            scores={
                f"{name} (greedy, {config.validation_split})": round(value, 4)
                for name, value in scores.items()
            },
        )
        trained = self.trainer.trained
        encoder = self.prepared.encoder
        if trained.tail is not None:
            encoder = copy.deepcopy(encoder)
            cut(encoder, config.training.fine_tune_stages)[1].load_state_dict(
                trained.tail.state_dict()
            )
        model = CaptionModel(encoder, trained.decoder)
        return Checkpoint(model, self.prepared.vocabulary, BeamSearch(width=3), info)


def _taught(prepared: Prepared) -> dict[str, Any]:
    """Return what has to be the same for a run to go on: how many captions, and which words."""
    words = prepared.vocabulary.words
    digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()
    return {"captions": len(prepared.dataset), "words": len(words), "digest": digest}
