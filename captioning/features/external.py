"""External features: a variable number of regions per image, read on demand."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captioning.datasets import CaptionSplit
from captioning.errors import ConfigError, DataError
from captioning.features.cache import CacheRows
from captioning.features.feature_files import FeatureFiles, open_feature_files
from captioning.messages import format_count
from captioning.nn.external_encoder import ExternalEncoder

_ID_FORMATS = ("coco", "karpathy")
"""Formats whose image ids come from the data set; in the others they are positions."""
_FILE_ERRORS = (None, errno.EACCES, errno.EISDIR)  # of one file; h5py gives damage no number
_REPORTED = 5  # unreadable arrays that are named during training


class ExternalFeatures(CacheRows):
    """Features that another program extracted, such as those of a region detector.

    The array of an image has the shape ``(regions, D)``, ``(height, width, D)`` or ``(D,)``, in
    any precision. The name of an image in a folder or an HDF5 file is the first that exists of:
    its id in COCO's or Karpathy's file, that id with 12 digits, its file name without the ending,
    and its file name.

    Args:
        location: Folder of ``.npz`` and ``.npy`` files, or HDF5 file.
        splits: The images, one split after the other.
        feature_size: D; None for that of the first image that can be read.
        workers: Number of threads that read files.
        on_message: Called with a message for arrays that cannot be read during training.

    Raises:
        DataError: The location cannot be read, or has no features of any image.
    """

    views = 1

    def __init__(
        self,
        location: Path,
        splits: Sequence[CaptionSplit],
        *,
        feature_size: int | None = None,
        workers: int = 0,
        on_message: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.files = open_feature_files(location)
        keys = [keys for split in splits for keys in _image_keys(split)]
        self._names = [self.files.find(each) for each in keys]
        self.unreadable: dict[int, str] = {
            row: f"no features of '{each[-1]}' in '{location}'"
            for row, (name, each) in enumerate(zip(self._names, keys, strict=True))
            if name is None
        }
        if not self.readable:
            raise _nothing_found(self.files, splits)
        self.feature_size = feature_size or self._find_size()
        self._counts = np.zeros(len(self._names), np.int64)  # 0: not read yet
        self._pool = ThreadPoolExecutor(max(1, workers))
        self._on_message = on_message
        self._reported = 0

    def __len__(self) -> int:
        return len(self._names)

    def load(self, row: int) -> Float[Tensor, "P D"]:
        """Return the regions of one image.

        Raises:
            DataError: The image has no features, or they cannot be used.
        """
        name = self._names[row]
        if name is None:
            raise DataError(self.unreadable[row])
        return load_regions(self.files, name, self.feature_size)

    def load_or_explain(self, row: int) -> Float[Tensor, "P D"] | str:
        """Return the regions of one image, or the reason why they cannot be used."""
        try:
            return self.load(row)
        except DataError as error:
            return str(error)

    def read(
        self, images: Int[Tensor, " B"], views: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B P D"]:
        """Return the regions of images, padded with zeros to the longest.

        An image whose array is damaged has one region of zeros, as captions without an image have.
        """
        rows = images.tolist()
        found = list(self._pool.map(self.load_or_explain, rows))
        regions = [x if isinstance(x, Tensor) else torch.zeros(1, self.feature_size) for x in found]
        for row, result, each in zip(rows, found, regions, strict=True):
            if isinstance(result, str):
                self._report(row, result)
            self._counts[row] = len(each)
        if not regions:
            return torch.zeros(0, 1, self.feature_size)
        return pad_sequence(regions, batch_first=True)

    def count_positions(self, images: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return the number of regions of images."""
        if not self._counts[images.numpy()].all():
            self.read(images)
        return torch.from_numpy(self._counts[images.numpy()])

    def check(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Read all images once, and list those whose features are damaged as unreadable."""
        rows = self.readable
        for done, (row, result) in enumerate(
            zip(rows, self._pool.map(self._explain, rows), strict=True), 1
        ):
            if result:
                self.unreadable[row] = result
            on_progress(done, len(rows))

    def _explain(self, row: int) -> str:
        result = self.load_or_explain(row)
        return result if isinstance(result, str) else ""

    def _report(self, row: int, reason: str) -> None:
        if self._counts[row] or self._reported >= _REPORTED:
            return
        self._reported += 1
        last = " Further ones are not listed." if self._reported == _REPORTED else ""
        self._on_message(f"Replaced damaged features with zeros: {reason}{last}")

    def _find_size(self) -> int:
        """Return D of the first image that can be read."""
        reasons = []
        for row in self.readable[:20]:
            name = self._names[row]
            assert name is not None
            try:
                return load_regions(self.files, name).shape[1]
            except DataError as error:
                reasons.append(str(error))
        raise DataError(f"cannot read the features of the first images: {reasons[0]}")


def load_regions(
    files: FeatureFiles, name: str, feature_size: int | None = None
) -> Float[Tensor, "P D"]:
    """Return the regions of one image in float32.

    Args:
        files: Folder or HDF5 file.
        name: Name of the array in it.
        feature_size: D; None to accept any.

    Raises:
        DataError: The array is damaged or cannot be used.
        OSError: The disk cannot be read.
    """
    try:
        array = files.read(name)
    except Exception as error:  # zipfile, zlib, NumPy and h5py raise errors of many kinds
        if isinstance(error, OSError) and error.errno not in _FILE_ERRORS:
            raise  # a problem of the disk: training must not continue without the features
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle" in reason:
            is_array = "Object arrays" in reason
            reason = "has pickled objects, which can run any code" if is_array else "not an array"
        raise DataError(
            f"cannot read {files.describe(name)}: {reason[:200].rstrip('.')}. Save it with "
            "numpy.savez(path, feat=array)."
        ) from error
    return check_regions(array, files.describe(name), feature_size)


def check_regions(
    array: np.ndarray, name: str, feature_size: int | None = None
) -> Float[Tensor, "P D"]:
    """Return an array of features as regions in float32.

    Args:
        array: ``(regions, D)``, ``(height, width, D)`` or ``(D,)``.
        name: Name of the array for messages.
        feature_size: D; None to accept any.

    Raises:
        DataError: The array has another shape or type, is empty, or has values that are not finite.
    """
    if array.dtype.kind not in "fiu" or not 1 <= array.ndim <= 3:
        raise DataError(
            f"{name} has the shape {array.shape} and the type {array.dtype}, expected numbers of "
            "the shape (regions, D), (height, width, D) or (D,). Save it in one of these shapes."
        )
    if not array.size:
        raise DataError(f"{name} has no values (shape {array.shape}). Extract it again.")
    if feature_size is not None and array.shape[-1] != feature_size:
        raise DataError(
            f"{name} has {array.shape[-1]:,} values per region (shape {array.shape}), expected "
            f"{feature_size:,}. Use features of one extractor."
        )
    with np.errstate(over="ignore"):
        regions = np.array(array, np.float32, order="C").reshape(-1, array.shape[-1])
    if not np.isfinite(regions).all():
        raise DataError(f"{name} has values that are not finite. Extract it again.")
    return torch.from_numpy(regions)


def check_features_given(encoder: object, features: object | None) -> None:
    """Check that a model gets what it reads, external features or images.

    Args:
        encoder: Encoder of the model.
        features: Location of external features, or None for images.

    Raises:
        ConfigError: The model reads the other kind.
    """
    external = isinstance(encoder, ExternalEncoder)
    if external and features is None:
        raise ConfigError(
            "this model reads features, not images: it has no CNN. Add --features with the folder "
            "or HDF5 file of the features of these images."
        )
    if features is not None and not external:
        raise ConfigError(
            "the model reads images, not external features. Remove --features, or use a "
            "model that was trained with --features."
        )


def _image_keys(split: CaptionSplit) -> Iterator[tuple[str, ...]]:
    has_ids = split.source.partition(":")[0] in _ID_FORMATS
    for image in split.images:
        name = os.path.basename(image.name)  # noqa: PTH119  (fast for 100,000 images)
        names = (name.rpartition(".")[0] or name, name)
        yield (str(image.image_id), f"{image.image_id:012d}", *names) if has_ids else names


def _nothing_found(files: FeatureFiles, splits: Sequence[CaptionSplit]) -> DataError:
    split = splits[0]
    tried: Iterable[str] = files.candidates(next(_image_keys(split)))
    found = (
        f"it has {format_count(len(files.names), 'array')}, such as '{min(files.names)}'"
        if files.names
        else "it has no .npz or .npy file"
    )
    return DataError(
        f"'{files.location}' has no features of the {format_count(len(split.images), 'image')} of "
        f"{split.source}, {split.split}: {found}. For the first image, these names were looked "
        f"up: {', '.join(tried)}. Rename the features, or use those of this data set."
    )
