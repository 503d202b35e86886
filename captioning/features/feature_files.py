"""Files of features that other programs wrote: ``.npy`` and ``.npz`` per image, and HDF5."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from captioning.errors import DataError
from captioning.messages import explain_error

_ENDINGS = (".npz", ".npy")
_ARRAYS = ("feat", "features", "x")
"""Names of the features in an ``.npz`` file, in self-critical.pytorch and other programs."""
_KEY_ENDINGS = ("", "_features", "_grids")
"""After the id in the keys of HDF5 files, in self-critical.pytorch, M2 Transformer and GRIT."""
_HDF5_ENDINGS = (".h5", ".hdf5", ".hdf")


class FeatureFiles(ABC):
    """Arrays of features by name.

    Attributes:
        location: The folder or file.
        names: All names.
    """

    location: Path
    names: frozenset[str]

    @abstractmethod
    def candidates(self, keys: Iterable[str]) -> Iterator[str]:
        """Yield the possible names of an image.

        Args:
            keys: Ids and file names of the image, the best first.
        """

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """Return an array.

        Raises:
            Exception: The array cannot be read. Libraries raise errors of many kinds.
        """

    def find(self, keys: Iterable[str]) -> str | None:
        """Return the first candidate that exists, or None."""
        return next((name for name in self.candidates(keys) if name in self.names), None)

    def describe(self, name: str) -> str:
        """Return the name of an array for messages."""
        return f"'{self.location / name}'"


class FeatureFolder(FeatureFiles):
    """A folder with one file for each image.

    Args:
        location: The folder.

    Raises:
        OSError: The folder cannot be read.
    """

    def __init__(self, location: Path) -> None:
        self.location = location
        with os.scandir(location) as entries:
            self.names = frozenset(entry.name for entry in entries if entry.name.endswith(_ENDINGS))

    def candidates(self, keys: Iterable[str]) -> Iterator[str]:
        """Yield ``KEY.npz`` and ``KEY.npy`` for each key."""
        return (f"{key}{ending}" for key in keys for ending in _ENDINGS)

    def read(self, name: str) -> np.ndarray:
        """Return the array of a file."""
        with (self.location / name).open("rb") as file:
            # No pickles: reading one can run any code.
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else _choose_array(content)


def _choose_array(content: Any) -> np.ndarray:
    names = content.files
    found = [name for name in _ARRAYS if name in names] or (names if len(names) == 1 else [])
    if not found:
        raise ValueError(
            f"has the arrays {', '.join(map(repr, names[:8])) or '(none)'}, expected one array, or "
            f"one named {' or '.join(map(repr, _ARRAYS))}"
        )
    return content[found[0]]


class FeatureHDF5(FeatureFiles):
    """An HDF5 file with one dataset for each image.

    Args:
        location: The file.

    Raises:
        OSError: The file cannot be read.
        DataError: h5py is not installed.
    """

    def __init__(self, location: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise DataError(
                f"'{location}' is an HDF5 file, and h5py is not installed. Use pip install "
                "'captioning[hdf5]'."
            ) from error
        self.location = location
        self._file = h5py.File(location, "r")
        self.names = frozenset(self._file)

    def candidates(self, keys: Iterable[str]) -> Iterator[str]:
        """Yield ``KEY``, ``KEY_features`` and ``KEY_grids`` for each key."""
        return (f"{key}{ending}" for key in keys for ending in _KEY_ENDINGS)

    def read(self, name: str) -> np.ndarray:
        """Return a dataset."""
        dataset = self._file[name]
        if not hasattr(dataset, "shape"):
            raise ValueError("is a group, expected a dataset")
        return np.asarray(dataset)

    def describe(self, name: str) -> str:
        """Return the name of a dataset for messages."""
        return f"'{name}' in '{self.location}'"


def open_feature_files(location: Path) -> FeatureFiles:
    """Open a folder of ``.npz`` and ``.npy`` files, or an HDF5 file.

    Raises:
        DataError: The location does not exist or is of another kind, or h5py is not installed.
    """
    try:
        if location.is_dir():
            return FeatureFolder(location)
        if location.suffix in _HDF5_ENDINGS:
            return FeatureHDF5(location)
        location.stat()
    except OSError as error:
        raise DataError(
            f"cannot read the features '{location}': {explain_error(error)}. Check the path, or "
            "copy the file again."
        ) from error
    raise DataError(
        f"cannot read the features '{location}': it is neither a folder nor an HDF5 file "
        f"({', '.join(_HDF5_ENDINGS)}). Use a folder with one .npz or .npy file per image, or an "
        "HDF5 file with one dataset per image."
    )
