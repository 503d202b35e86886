"""Evaluation: caption a split with a model and score the captions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.datasets import CaptionData, CaptionSplit, HoldOutConfig, shorten_spec
from captioning.datasets.coco_results import write_results
from captioning.datasets.spec import TRAIN_SPLIT
from captioning.decoding import SearchMethod, search_to_json
from captioning.errors import DataError
from captioning.features.external import ExternalFeatures, check_features_given
from captioning.files import check_writable, find_copies
from captioning.inference.backend_config import Precision
from captioning.inference.captioner import Captioner
from captioning.inference.region_captions import caption_external
from captioning.messages import check_minimum, check_ranges, format_count
from captioning.metrics import Scores, score
from captioning.metrics.java import check_java
from captioning.processes import (
    connect_processes,
    fail_together,
    is_main_process,
    merge_shares,
    process_count,
    share_batches,
)
from captioning.reranking.consensus import Consensus
from captioning.short_repr import ShortDict, ShortTuple


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of :func:`evaluate` that do not change the caption of an image."""

    output: Path | str | None = None
    """File for the captions in the COCO results format, written before they are scored."""
    features: Path | str | None = None
    """External features, for a model that was trained on such features: a folder with one
    ``.npz`` or ``.npy`` file per image, or an HDF5 file with one dataset per image."""
    java: tuple[str, ...] = ()
    """Further metrics, ``meteor`` and ``spice``, which need Java."""
    batch_size: int = 64
    """Images per batch (1 or more)."""
    workers: int = 2
    """Processes that read images; 0 reads them in this process."""
    device: str = "auto"
    """Device of a model that is loaded: ``cpu``, ``cuda``, ``mps``, or ``auto``."""
    precision: Precision = "float32"
    """Precision of a model that is loaded: ``float32``, ``bfloat16``, ``int8``, or ``auto``. Scores
    of ``float32`` do not depend on the machine."""
    val_fraction: float = 0.0
    """Share of the training images that was held out for validation (0: none), as in training."""
    split_seed: int = 0
    """Seed of the held-out images, as in training."""

    def __post_init__(self) -> None:
        check_ranges(self, "[0, 1)", "val_fraction")
        check_minimum(self, batch_size=1, workers=0)


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """Captions of a split, and their scores.

    Attributes:
        scores: Scores over the images that can be read.
        captions: Caption of each image, by image id.
        references: Reference captions of each image, by image id.
        errors: Why an image cannot be read, by image id; these images are not scored.
        split: The split, with the problems found in it.
        search: The search that found the captions.
        train_captions: All captions of the train split of the same data, for the share of novel
            captions; None if there is no such split.
        consensus: Signature of the consensus data; empty without consensus reranking.
        rounding: Precision of the model, and the backend if captions depend on it.
        features: Name of the external features; empty if the model reads images.
    """

    scores: Scores
    captions: dict[int, str]
    references: dict[int, list[str]]
    errors: dict[int, str]
    split: CaptionSplit
    search: SearchMethod
    train_captions: tuple[str, ...] | None = None
    consensus: str = ""
    rounding: str = "float32"
    features: str = ""

    def __post_init__(self) -> None:
        for name in ("captions", "references", "errors"):
            object.__setattr__(self, name, ShortDict(getattr(self, name)))
        if self.train_captions is not None:
            object.__setattr__(self, "train_captions", ShortTuple(self.train_captions))

    @property
    def signature(self) -> str:
        """Every choice that changes a score: split, search, consensus data, precision, scorer."""
        search = ",".join(
            f"{name}={value}"
            for name, value in search_to_json(self.search).items()
            if value not in ([], 0)
        )
        consensus = f"{self.consensus}|" if self.consensus else ""
        precision = "" if self.rounding == "float32" else f"precision:{self.rounding}|"
        data = f"data:{shorten_spec(self.split.source)}|split:{self.split.split}"
        if held_out := self.split.hold_out:
            data += f"(val_fraction={held_out.val_fraction:g},seed={held_out.split_seed})"
        data += f"|features:{self.features}" if self.features else ""
        return f"{data}|search:{search}|{consensus}{precision}{self.scores.signature}"

    def __repr__(self) -> str:
        return repr(self.scores)

    def _repr_html_(self) -> str:
        """Return the scores as an HTML table for notebooks."""
        return self.scores._repr_html_()


def evaluate(
    model: Captioner | str | Path | None,
    data: Any,
    *,
    split: str = "val",
    search: SearchMethod | None = None,
    config: EvaluationConfig | None = None,
    on_phase: Callable[[str], None] = lambda name: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationResult:
    """Caption a split with a model and score the captions.

    In a job of torchrun or ``accelerate launch``, all processes call it and share the images. The
    main process writes the captions. The result is that of one process.

    Args:
        model: A captioner, a model directory or hub id, or None for the model of the package.
        data: Data set, as for :func:`captioning.read_captions`.
        split: ``train``, ``val`` or ``test``.
        search: The search; None for the model's default.
        config: Output file, further metrics, batch size, workers and device.
        on_phase: Called at the start of each phase, with its name, such as ``Scoring captions``.
        on_progress: Called with the number of images captioned so far, and their total.

    Raises:
        DataError: The split cannot be used, none of its images can be read, or the consensus data
            contain images of the split or copies of them.
        ConfigError: The model does not support the search, or it reads external features and
            the config has none, or the reverse.
        OutputError: The captions cannot be written.
        ScoreError: A metric in Java is not available.
    """
    config = config or EvaluationConfig()
    connect_processes(config.device)
    _check_config(config)
    captioner = model if isinstance(model, Captioner) else _load_captioner(model, config)
    check_features_given(captioner.checkpoint.model.encoder, config.features)
    search = captioner.checkpoint.search if search is None else search
    captioner.check_search(search)
    data_set = _open_data(data, config)
    on_phase(f"Reading {shorten_spec(data_set.name)}")
    caption_split = data_set.read(split)
    if captioner.consensus is not None:
        _refuse_overlap(caption_split, captioner.consensus)
    on_phase("Captioning images")
    with fail_together():
        captions, errors = _caption_split(captioner, caption_split, search, config, on_progress)
    if not captions:
        raise no_readable_image(data_set.name, errors)
    if config.output is not None and is_main_process():
        write_results(captions, config.output)
    on_phase("Scoring captions")
    images = [image for image in caption_split.images if image.image_id in captions]
    references = {image.image_id: list(image.captions) for image in images}
    return EvaluationResult(
        scores=_score(captioner, captions, references, config),
        captions=captions,
        references=references,
        errors=errors,
        split=caption_split,
        search=search,
        train_captions=_read_train_captions(data_set, caption_split),
        consensus=captioner.consensus.signature if captioner.consensus else "",
        rounding=captioner.backend.rounding,
        features=Path(config.features).name if config.features else "",
    )


def _check_config(config: EvaluationConfig) -> None:
    """Check what would otherwise fail after the captioning."""
    if config.java:
        check_java(config.java)
    if config.output is not None:
        check_writable(Path(config.output))


def _open_data(data: Any, config: EvaluationConfig) -> CaptionData:
    hold_out = HoldOutConfig(config.val_fraction, config.split_seed)
    return CaptionData(data, hold_out, require_images=config.features is None)


def _load_captioner(model: str | Path | None, config: EvaluationConfig) -> Captioner:
    return Captioner.from_pretrained(model, device=config.device, precision=config.precision)


def _score(
    captioner: Captioner,
    captions: dict[int, str],
    references: dict[int, list[str]],
    config: EvaluationConfig,
) -> Scores:
    tokenizer = captioner.checkpoint.vocabulary.tokenizer.name
    return score(captions, references, java=config.java, tokenizer=tokenizer)


def _caption_split(
    captioner: Captioner,
    split: CaptionSplit,
    search: SearchMethod,
    config: EvaluationConfig,
    on_progress: Callable[[int, int], None],
) -> tuple[dict[int, str], dict[int, str]]:
    """Return the caption of each image that can be read, and the errors of the others.

    Each process captions some batches, and gets the results of all.
    """
    captions: dict[int, str] = {}
    errors: dict[int, str] = {}
    images, total = share_batches(split.images, config.batch_size), len(split.images)
    if config.features is None:
        results = captioner.caption_files(
            [image.ref for image in images],
            search=search,
            batch_size=config.batch_size,
            workers=config.workers,
        )
    else:
        size = captioner.checkpoint.model.encoder.feature_size
        results = caption_external(
            captioner,
            ExternalFeatures(Path(config.features), [split], feature_size=size),
            [image.name for image in images],
            search=search,
            batch_size=config.batch_size,
        )
    for done, (image, result) in enumerate(zip(images, results, strict=True), 1):
        if result.ok:
            captions[image.image_id] = result.text
        else:
            errors[image.image_id] = result.error
        on_progress(min(done * process_count(), total), total)
    order = [image.image_id for image in split.images]
    return merge_shares(captions, order), merge_shares(errors, order)


def _refuse_overlap(split: CaptionSplit, consensus: Consensus) -> None:
    """Refuse consensus data that contain images of the split, and so its references."""
    paths = [image.path for image in split.images]
    if shared := find_copies(paths, consensus.paths):
        count = format_count(len(shared), "image")
        raise DataError(
            f"the consensus data contain {count} of the {split.split} split, such as {shared[0]}, "
            "or copies of them. Captions would be chosen with the references that score them. Use "
            "consensus data without images of the evaluated split."
        )


def no_readable_image(data: str, errors: Mapping[int, str]) -> DataError:
    """Return the error for a data set without a readable image."""
    return DataError(
        f"none of the {format_count(len(errors), 'image')} of {data} can be read. The first error: "
        f"{next(iter(errors.values()))}"
    )


def _read_train_captions(data: CaptionData, evaluated: CaptionSplit) -> tuple[str, ...] | None:
    try:
        train = data.read(TRAIN_SPLIT)
    except DataError:
        return None  # the data set has no train split here
    if {image.name for image in train.images} & {image.name for image in evaluated.images}:
        return None  # one file serves every split
    return tuple(caption for image in train.images for caption in image.captions)
