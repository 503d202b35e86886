"""Reading the splits of a run, and storing the features of their images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from captioning.datasets import (
    CaptionData,
    CaptionedImage,
    CaptionSplit,
    HoldOutConfig,
    shorten_spec,
)
from captioning.datasets.split import find_files, pick_evenly
from captioning.errors import DataError
from captioning.features.cache import CacheRows, JoinedCaches
from captioning.features.external import ExternalFeatures
from captioning.features.extraction import ExtractionConfig, plan_features, plan_pixels
from captioning.features.row_extraction import RowExtraction
from captioning.images.image_ref import ImageRef
from captioning.messages import format_count
from captioning.nn.encoder import Encoder
from captioning.nn.split_encoder import EncoderFront
from captioning.training.augmented_images import AugmentedImages
from captioning.training.callback import ENCODING, TrainingCallback
from captioning.training.config import RunConfig

_SAMPLES = 24
_LISTED_IMAGES = 5  # unreadable images that are listed by name


@dataclass(frozen=True)
class EncodedSplit:
    """A split of all data sets, concatenated, with the features of its images.

    Attributes:
        captions: Captions of each image.
        cache: Features of the images, in the same order.
        sources: Name and number of images of each data set.
        images: The images, in the same order.
        samples: Row and reference of some evenly spaced images.
        split: Description of the split, such as ``train``, or ``train (val_fraction 0.1, ...)``.
    """

    captions: tuple[tuple[str, ...], ...]
    cache: CacheRows
    sources: tuple[tuple[str, int], ...]
    split: str
    images: tuple[ImageRef, ...]
    samples: tuple[tuple[int, ImageRef], ...]

    @classmethod
    def join(cls, splits: list[CaptionSplit], cache: CacheRows) -> "EncodedSplit":
        """Return the splits of all data sets, with the features of their images."""
        captions = tuple(image.captions for split in splits for image in split.images)
        sources = tuple((shorten_spec(split.source), len(split.images)) for split in splits)
        names = dict.fromkeys(f"{split.split}{describe_hold_out(split)}" for split in splits)
        images = tuple(image.ref for split in splits for image in split.images)
        rows = pick_evenly(range(len(images)), _SAMPLES)
        samples = tuple((row, images[row]) for row in rows)
        return cls(captions, cache, sources, ", ".join(names), images, samples)

    @property
    def readable(self) -> list[int]:
        """Rows of the images that can be read."""
        return self.cache.readable


def read_splits(
    config: RunConfig, callback: TrainingCallback
) -> tuple[list[CaptionSplit], list[CaptionSplit]]:
    """Return the training and the validation split of each data set, without a common image.

    Their sizes and problems are reported. A file with both splits is read once.

    Raises:
        DataError: A split cannot be used, or an image is in both.
    """
    hold_out = HoldOutConfig(config.val_fraction, config.split_seed)
    train, validation = [], []
    for name in config.data:
        data = CaptionData(name, hold_out, require_images=config.features is None)
        train.append(_read_split(data, config.train_split, callback))
        validation.append(_read_split(data, config.validation_split, callback))
    if config.val_fraction:
        _check_hold_out(validation, callback)
    _refuse_overlap(train, validation)
    return train, validation


def _read_split(data: CaptionData, split: str, callback: TrainingCallback) -> CaptionSplit:
    callback.on_phase(f"Reading {shorten_spec(data.name)}, {split}")
    read = data.read(split)
    captions = sum(len(image.captions) for image in read.images)
    callback.on_message(
        f"{shorten_spec(data.name)}, {read.split}: {format_count(len(read.images), 'image')}, "
        f"{format_count(captions, 'caption')}{describe_hold_out(read)}"
    )
    if report := read.problems.report():
        callback.on_message(report)
    return read


def describe_hold_out(split: CaptionSplit) -> str:
    """Return which images were held out of a split or are held out in it; empty for none."""
    if split.hold_out is None:
        return ""
    share, seed = f"{split.hold_out.val_fraction:.3g}", split.hold_out.split_seed
    return f" (val_fraction {share}, split_seed {seed})"


def _check_hold_out(validation: list[CaptionSplit], callback: TrainingCallback) -> None:
    own = [shorten_spec(split.source) for split in validation if split.hold_out is None]
    if len(own) == len(validation):
        raise DataError(
            f"val_fraction has no effect: {', '.join(own)} has its own split "
            f"{validation[0].split}. Remove val_fraction."
        )
    if own:
        callback.on_message(f"val_fraction is not used for {', '.join(own)}: it has its own split.")


def _refuse_overlap(train: list[CaptionSplit], validation: list[CaptionSplit]) -> None:
    """Check that no image is in both splits: validation would reward memorized captions.

    Raises:
        DataError: An image is in both.
    """
    if shared := find_files(train) & find_files(validation):
        first, second = train[0].split, validation[0].split
        images = f"{format_count(len(shared), 'image')}, such as '{min(shared)}'"
        problem = (
            f"the training and validation splits are the same split ({first})"
            if first == second
            else f"{first} and {second} share {images}"
        )
        raise DataError(
            f"{problem}. Use splits without common images as train_split and validation_split. If "
            "the data have one split, hold images out with val_fraction (such as 0.1), add a split "
            "column to the table, or use {split} in the name of a file that holds one split."
        )


def limit_validation(
    splits: list[CaptionSplit], limit: int, callback: TrainingCallback
) -> list[CaptionSplit]:
    """Return splits with about ``limit`` images in all (0: no limit), and report their number.

    The images of each split are evenly spaced, and each split keeps its share, rounded up.
    """
    total = sum(len(split.images) for split in splits)
    if not limit or total <= limit:
        return splits
    limited = [
        replace(split, images=pick_evenly(split.images, -(-len(split.images) * limit // total)))
        for split in splits
    ]
    count = sum(len(split.images) for split in limited)
    callback.on_message(
        f"Validating on {count:,} of {total:,} images (validation_limit is {limit:,})."
    )
    return limited


def plan_splits(
    encoder: Encoder | EncoderFront,
    splits: list[CaptionSplit],
    config: RunConfig,
    extraction: ExtractionConfig,
    callback: TrainingCallback,
) -> list[RowExtraction]:
    """Look up the features of each data set in the cache.

    Raises:
        OutputError: The cache cannot be read.
    """
    return [_plan_split(encoder, split, config, extraction, callback) for split in splits]


def _plan_split(
    encoder: Encoder | EncoderFront,
    split: CaptionSplit,
    config: RunConfig,
    extraction: ExtractionConfig,
    callback: TrainingCallback,
) -> RowExtraction:
    images = [image.ref for image in split.images]
    directory = config.cache_directory
    callback.on_phase("Reading image files")
    if config.training.online_augmentation:
        return plan_pixels(
            encoder.preprocessing,
            images,
            directory,
            workers=extraction.workers,
            on_digest=callback.on_progress,
        )
    return plan_features(encoder, images, directory, extraction, on_digest=callback.on_progress)


def encode_splits(
    encoder: Encoder | EncoderFront,
    splits: list[CaptionSplit],
    extractions: list[RowExtraction],
    config: RunConfig,
    callback: TrainingCallback,
) -> EncodedSplit:
    """Return a split with the features of its images.

    Args:
        encoder: The encoder, or its frozen first stages.
        splits: The split of each data set.
        extractions: The result of :func:`plan_splits` for these splits.
        config: The run.
        callback: Receives progress and messages.

    Raises:
        DataError: No image of a data set can be read.
        OutputError: The cache cannot be written.
    """
    caches = []
    for split, extraction in zip(splits, extractions, strict=True):
        callback.on_phase(ENCODING)
        rows = extraction.run(callback.on_progress)
        _report_unreadable(rows.unreadable, split.images, split.source, callback)
        caches.append(rows)
    cache: CacheRows = caches[0] if len(caches) == 1 else JoinedCaches(caches)
    if config.training.online_augmentation:
        cache = AugmentedImages(cache, encoder)
    return EncodedSplit.join(splits, cache)


def read_external(
    feature_size: int,
    splits: list[CaptionSplit],
    config: RunConfig,
    callback: TrainingCallback,
    *,
    check: bool = False,
) -> EncodedSplit:
    """Return a split with external features.

    Args:
        feature_size: D, size of each region.
        splits: The split of each data set.
        config: The run.
        callback: Receives messages.
        check: Read all features now, so that images with damaged ones are left out.

    Raises:
        DataError: No image has features.
    """
    assert config.features is not None
    cache = ExternalFeatures(
        config.features,
        splits,
        feature_size=feature_size,
        workers=config.workers,
        on_message=callback.on_message,
    )
    if check:
        callback.on_phase("Reading features")
        cache.check(callback.on_progress)
    else:
        callback.on_message(
            f"Features: {feature_size:,} values per region, from '{config.features}', "
            "without flipped views."
        )
    images = [image for split in splits for image in split.images]
    _report_unreadable(cache.unreadable, images, str(config.features), callback)
    return EncodedSplit.join(splits, cache)


def _report_unreadable(
    unreadable: Mapping[int, str],
    images: Sequence[CaptionedImage],
    source: str,
    callback: TrainingCallback,
) -> None:
    for row, reason in list(unreadable.items())[:_LISTED_IMAGES]:
        callback.on_message(f"Skipping {images[row].name}: {reason}")
    if (more := len(unreadable) - _LISTED_IMAGES) > 0:
        callback.on_message(f"Skipping {format_count(more, 'more unreadable image')}.")
    if len(unreadable) == len(images):
        raise DataError(
            f"cannot read any of the {len(images)} images of {source}. The first "
            f"error: {unreadable.get(0, 'the split is empty')}"
        )
