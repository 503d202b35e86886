"""A training run from a data set's name to a model directory, which survives being killed."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from captioning.checkpoint import Checkpoint, save_checkpoint
from captioning.data.batches import CaptionDataset, mirror_words
from captioning.data.features import FeatureCache
from captioning.data.readers import CaptionSplit, read_captions
from captioning.data.tokenizer import tokenize
from captioning.data.vocabulary import Vocabulary
from captioning.decoding import BeamSearch, Greedy, SearchMethod
from captioning.errors import DataError, TrainingError
from captioning.metrics import score
from captioning.nn.decoder import Decoder, DecoderOptions
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.training.cache import cache_features
from captioning.training.log import TrainingLog
from captioning.training.settings import TrainingConfig
from captioning.training.trainer import EpochSummary, Progress, Trainer
from captioning.training.validation import caption_features

logger = logging.getLogger(__name__)
_STATE = "state.pt"
_SETTINGS = "settings.json"
_MODEL = "model"


@dataclass(frozen=True)
class RunConfig:
    """What is trained, on what, and where it is kept."""

    data: str
    """The captioned pictures: ``flickr8k:DIR``, ``coco:DIR``, ``karpathy:FILE``, ``jsonl:FILE`` or
    ``csv:FILE``."""
    output: Path
    """The run's directory: the model, the log, and what is needed to go on after an interruption.
    """
    train_split: str = "train"
    """The split to train on."""
    validation_split: str = "val"
    """The split whose captions choose the epoch."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The CNN."""
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    """The recurrent net."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Teacher forcing."""
    min_count: int = 5
    """A word is known when the training captions hold it this often."""
    cache: Path | None = None
    """Where features are cached, for all runs to share; ``features`` beside the run by default."""
    workers: int = 2
    """Processes that read pictures."""
    device: str = "cpu"
    """Where the tensors live: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""


@dataclass(frozen=True)
class Watcher:
    """Whom a run tells how it goes; each member does nothing by default.

    Attributes:
        say: Told a line of text.
        looked: Told how many pictures have been encoded, of how many.
        stepped: Told after each batch where training stands.
        resumed: Told the batches already done when a run goes on, of how many.
    """

    say: Callable[[str], None] = lambda text: None
    looked: Callable[[int, int], None] = lambda done, total: None
    stepped: Callable[[Progress], None] = lambda progress: None
    resumed: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class _Split:
    """One split, ready for use."""

    captions: tuple[tuple[str, ...], ...]
    cache: FeatureCache

    @property
    def readable(self) -> list[int]:
        """Places of the pictures that could be read."""
        return [i for i in range(len(self.captions)) if i not in self.cache.unreadable]


@dataclass(frozen=True)
class _Best:
    """The best epoch so far."""

    epoch: int = 0
    value: float = float("-inf")


def train(config: RunConfig, watcher: Watcher | None = None) -> Path:
    """Train a captioner; the same call on the same directory goes on where a killed run was.

    Args:
        config: All settings. They are written into the directory, and a run is only continued
            under the same ones.
        watcher: Told how it goes.

    Returns:
        The model directory of the best epoch.

    Raises:
        DataError: The captions or pictures cannot be used.
        WeightsError: The encoder's weights cannot be had.
        TrainingError: The directory holds a run with other settings, or the loss diverged.
    """
    watcher = watcher or Watcher()
    _claim(config)
    splits = _read_splits(config, watcher)
    torch.manual_seed(config.training.seed)
    encoder = Encoder(config.encoder).to(config.device)
    train_split, validation_split = (_cache(encoder, s, config, watcher) for s in splits)
    words = [[tokenize(caption) for caption in image] for image in train_split.captions]
    vocabulary = Vocabulary.build(
        (caption for image in words for caption in image), min_count=config.min_count
    )
    watcher.say(f"{len(vocabulary)} words seen {config.min_count} times or more")
    torch.manual_seed(config.training.seed)
    decoder = Decoder(
        config.decoder.sized(vocabulary_size=len(vocabulary), feature_size=encoder.feature_size)
    ).to(config.device)
    dataset = _dataset(words, train_split, vocabulary)
    trainer = Trainer(decoder, dataset, train_split.cache, config.training)
    run = _Run(config, encoder, vocabulary, trainer, validation_split, watcher)
    run.resume()
    return run.finish()


def _claim(config: RunConfig) -> None:
    """Write the settings into the run's directory, or compare them with those that are there."""
    settings = json.loads(json.dumps(asdict(config), default=str))
    for free in ("output", "cache", "workers", "device"):
        settings.pop(free)  # they change nothing in the weights but the order of sums
    path = config.output / _SETTINGS
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            differing = _differences(found, settings)
            raise TrainingError(
                f"{config.output} holds a run with other settings: {differing}. Give the same "
                "settings to go on with it, or another output to start afresh."
            )
        return
    if config.output.is_dir() and any(config.output.iterdir()):
        raise TrainingError(
            f"{config.output} exists, is not empty and holds no training run. Give another output."
        )
    config.output.mkdir(parents=True, exist_ok=True)
    _replace_text(path, json.dumps(settings, indent=2) + "\n")


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> str:
    parts = []
    for name in sorted(set(found) | set(wanted)):
        there, here = found.get(name), wanted.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            if there != here:
                parts.append(_differences(there, here, f"{prefix}{name}."))
        elif there != here:
            parts.append(f"{prefix}{name} was {there!r} and is now {here!r}")
    return "; ".join(parts)


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _read_splits(config: RunConfig, watcher: Watcher) -> tuple[CaptionSplit, CaptionSplit]:
    splits = []
    for name in (config.train_split, config.validation_split):
        split = read_captions(config.data, split=name)
        count = sum(len(image.captions) for image in split.images)
        watcher.say(f"{name}: {len(split.images)} pictures, {count} captions")
        if report := split.problems.report():
            watcher.say(report)
        splits.append(split)
    return splits[0], splits[1]


def _cache(encoder: Encoder, split: CaptionSplit, config: RunConfig, watcher: Watcher) -> _Split:
    cache = cache_features(
        encoder,
        [image.path for image in split.images],
        config.cache or config.output.parent / "features",
        grid=config.decoder.attention,
        flip=config.training.mirror,
        workers=config.workers,
        watch=watcher.looked,
    )
    for place, why in list(cache.unreadable.items())[:5]:
        watcher.say(f"left out {split.images[place].path}: {why}")
    if len(cache.unreadable) > 5:
        watcher.say(f"... and {len(cache.unreadable) - 5} more pictures that cannot be read")
    if len(cache.unreadable) == len(split.images):
        raise DataError(
            f"None of the {len(split.images)} pictures of {split.source} can be read; the first: "
            f"{cache.unreadable[0]}"
        )
    return _Split(tuple(image.captions for image in split.images), cache)


def _dataset(
    words: list[list[list[str]]], split: _Split, vocabulary: Vocabulary
) -> CaptionDataset:
    tokens = [
        [vocabulary.encode(caption) for caption in image if caption]
        if place not in split.cache.unreadable
        else []
        for place, image in enumerate(words)
    ]
    return CaptionDataset(tokens, sides=mirror_words(vocabulary))


class _Run:
    """The loop over epochs with its validation, its log and its saved state."""

    def __init__(
        self,
        config: RunConfig,
        encoder: Encoder,
        vocabulary: Vocabulary,
        trainer: Trainer,
        validation: _Split,
        watcher: Watcher,
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.vocabulary = vocabulary
        self.trainer = trainer
        self.validation = validation
        self.watcher = watcher
        self.best = _Best()
        self.seconds = 0.0  # of sessions before this one
        self.started = time.monotonic()

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
            self.trainer.load_state_dict(state["trainer"])
        except Exception as error:  # torch.load raises many kinds for a damaged file
            raise TrainingError(
                f"{path} cannot be read ({error}), so the run cannot go on. Remove that file to "
                "start this run afresh."
            ) from error
        self.best = _Best(*state["best"])
        self.seconds = state["seconds"]
        step, steps = self.trainer.position.step, self.trainer.steps
        self.watcher.say(f"going on after batch {step} of {steps}")
        self.watcher.resumed(step, steps)

    def save(self) -> None:
        """Write the state, so that it is there whole or as it was before."""
        state = {
            "trainer": self.trainer.state_dict(),
            "best": [self.best.epoch, self.best.value],
            "seconds": self._elapsed,
        }
        path = self.config.output / _STATE
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def finish(self) -> Path:
        """Train what is left and return the model directory of the best epoch."""
        step = self.trainer.position.step
        with TrainingLog(self.config.output, step=step) as log:
            while not (self.trainer.finished or self._patience_is_over()):
                summary = self.trainer.train_epoch(watch=self.watcher.stepped, save=self.save)
                scores = self._validate()
                self._record(log, summary, scores)
                self.save()
        if self._patience_is_over():
            self.watcher.say(
                f"stopped: no better {self.config.training.select_by} for "
                f"{self.config.training.patience} epochs"
            )
        return self.config.output / _MODEL

    def _patience_is_over(self) -> bool:
        patience = self.config.training.patience
        return bool(patience) and self.trainer.position.epoch - self.best.epoch >= patience

    def _validate(self) -> dict[str, float]:
        """Score greedy captions of the validation split."""
        return self._scores(Greedy())

    def _scores(self, how: SearchMethod) -> dict[str, float]:
        places = self.validation.readable
        captions = caption_features(
            self.trainer.trained, self.validation.cache, places, self.vocabulary, how
        )
        references = {place: list(self.validation.captions[place]) for place in places}
        scores = score(dict(zip(places, captions, strict=True)), references)
        return scores.values

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
        log.write(summary.step, "train", values)
        log.write(summary.step, "val", {"epoch": summary.epoch, **scores})
        value = scores[self.config.training.select_by]
        better = value > self.best.value
        self.watcher.say(
            f"epoch {summary.epoch}: loss {summary.loss:.3f}, perplexity {summary.perplexity:.1f}, "
            f"{summary.captions_per_second:.0f} captions/s; greedy BLEU-4 {scores['BLEU-4']:.3f}, "
            f"CIDEr-D {scores['CIDEr-D']:.3f}{' (best so far)' if better else ''}"
        )
        if better:
            self.best = replace(self.best, epoch=summary.epoch, value=value)
            save_checkpoint(self._checkpoint(summary, scores), self.config.output / _MODEL)

    def _checkpoint(self, summary: EpochSummary, scores: dict[str, float]) -> Checkpoint:
        config = self.config
        info = {
            "training": {
                "data": config.data,
                "split": config.train_split,
                "epochs": summary.epoch,
                "seed": config.training.seed,
                "torch": torch.__version__,
            },
            "scores": {
                f"{name} (greedy, {config.validation_split})": round(value, 4)
                for name, value in scores.items()
            },
        }
        model = CaptionModel(self.encoder, self.trainer.trained)
        return Checkpoint(model, self.vocabulary, BeamSearch(width=3), info)
