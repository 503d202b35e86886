"""External features: names, forms, padding, and damaged arrays."""

import errno
import sys

import h5py
import numpy as np
import pytest
import torch
from external_features import D, make_regions

from captioning.datasets.split import CaptionedImage, CaptionSplit, Problems
from captioning.errors import DataError
from captioning.features.external import ExternalFeatures

NAMES = ("COCO_val2014_000000000042.jpg", "COCO_val2014_000000000007.jpg")


def make_split(names=NAMES, ids=(42, 7), source="karpathy:dataset_coco.json"):
    images = (
        CaptionedImage(f"val2014/{n}", ("a dog",), i) for n, i in zip(names, ids, strict=True)
    )
    return CaptionSplit(tuple(images), Problems(), source, "val")


def save(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


@pytest.mark.parametrize(
    "name",
    ["42", "000000000042", "COCO_val2014_000000000042", "COCO_val2014_000000000042.jpg"],
)
def test_lookup_finds_every_kind_of_name(tmp_path, name):
    save(tmp_path, **{name: make_regions(1, 3)})
    features = ExternalFeatures(tmp_path, [make_split()])
    np.testing.assert_array_equal(features.load(0).numpy(), make_regions(1, 3))
    assert features.readable == [0]
    assert features.unreadable[1] == f"no features of '{NAMES[1]}' in '{tmp_path}'"


def test_lookup_prefers_the_id(tmp_path):
    save(tmp_path, **{"7": make_regions(1, 2), "42": make_regions(2, 2)})
    features = ExternalFeatures(tmp_path, [make_split(names=("7.jpg", "42.jpg"))])
    np.testing.assert_array_equal(features.load(0).numpy(), make_regions(2, 2))


def test_lookup_ignores_ids_that_are_positions(tmp_path):
    """The reader of a table counts its images; these numbers name no file."""
    save(tmp_path, **{"0": make_regions(1, 2), "b": make_regions(2, 2)})
    split = make_split(names=("a.jpg", "b.jpg"), ids=(0, 1), source="jsonl:captions.jsonl")
    features = ExternalFeatures(tmp_path, [split])
    assert list(features.unreadable) == [0]
    np.testing.assert_array_equal(features.load(1).numpy(), make_regions(2, 2))


def test_read_pads_to_the_longest_image(tmp_path):
    arrays = {"42": make_regions(1, 2), "7": make_regions(2, 5)}
    save(tmp_path, **arrays)
    features = ExternalFeatures(tmp_path, [make_split()], workers=2)
    images = torch.tensor([1, 0, 1])
    assert features.count_positions(images).tolist() == [5, 2, 5]
    grid = features.read(images).numpy()
    np.testing.assert_array_equal(grid[0], arrays["7"])
    np.testing.assert_array_equal(grid[1, :2], arrays["42"])
    assert not grid[1, 2:].any()
    assert features.read(images[:0]).shape == (0, 1, D)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "u1"])
@pytest.mark.parametrize("shape", [(D,), (1, D), (3, D), (2, 3, D)])
def test_array_of_any_usual_shape_and_type_is_read(tmp_path, shape, dtype):
    array = (10 * np.random.default_rng(0).random(shape)).astype(dtype)
    save(tmp_path, **{"42": array})
    regions = ExternalFeatures(tmp_path, [make_split()]).load(0)
    assert regions.dtype == torch.float32
    np.testing.assert_array_equal(regions.numpy(), array.astype(np.float32).reshape(-1, D))


@pytest.mark.parametrize("names", [("feat",), ("x", "bbox"), ("anything",)])
def test_npz_array_is_found_by_its_name(tmp_path, names):
    arrays = {name: make_regions(n, 2) for n, name in enumerate(names)}
    np.savez(tmp_path / "42.npz", **arrays)
    regions = ExternalFeatures(tmp_path, [make_split()]).load(0)
    np.testing.assert_array_equal(regions.numpy(), make_regions(0, 2))


@pytest.mark.parametrize("ending", ["", "_features", "_grids"])
def test_hdf5_equals_folder(tmp_path, ending):
    arrays = {f"42{ending}": make_regions(1, 4), f"7{ending}": make_regions(2, 1)}
    path = write_hdf5(tmp_path / "all.h5", {**arrays, "42_boxes": np.zeros((4, 4))})
    features = ExternalFeatures(path, [make_split()], feature_size=D)
    for row, array in enumerate(arrays.values()):
        np.testing.assert_array_equal(features.load(row).numpy(), array)


def write_truncated(path):
    np.savez_compressed(path / "7.npz", feat=make_regions(2, 5))
    content = (path / "7.npz").read_bytes()
    (path / "7.npz").write_bytes(content[: len(content) // 2])


def write_wrong_byte(path):
    np.savez(path / "7.npz", feat=make_regions(2, 5))
    content = bytearray((path / "7.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (path / "7.npz").write_bytes(content)


def write_objects(path):
    np.save(path / "7.npy", np.array([{"features": 1}]), allow_pickle=True)


def write_several(path):
    np.savez(path / "7.npz", boxes=np.zeros(4), size=np.zeros(2))


DAMAGED = {
    "other size": (lambda path: save(path, **{"7": np.zeros((3, D + 1))}), "expected 12"),
    "nan": (lambda path: save(path, **{"7": np.full((3, D), np.nan)}), "not finite"),
    "too large": (lambda path: save(path, **{"7": np.full((3, D), 1e99)}), "not finite"),
    "no regions": (lambda path: save(path, **{"7": np.zeros((0, D))}), "no values"),
    "text": (lambda path: save(path, **{"7": np.array(["a"] * D)}), "the type <U1"),
    "number": (lambda path: save(path, **{"7": np.float32(1)}), r"the shape \(\)"),
    "many dimensions": (lambda path: save(path, **{"7": np.zeros((1, 1, 2, D))}), "the shape"),
    "pickle": (write_objects, "has pickled objects"),
    "truncated": (write_truncated, "cannot read"),
    "wrong byte": (write_wrong_byte, "cannot read"),
    "empty file": (lambda path: (path / "7.npy").write_bytes(b""), "cannot read"),
    "text file": (lambda path: (path / "7.npy").write_text("1 2 3"), "not an array"),
    "folder": (lambda path: (path / "7.npy").mkdir(), "cannot read"),
    "several arrays": (write_several, "'boxes', 'size', expected one array"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_array_is_reported_and_replaced_by_zeros(tmp_path, kind):
    write, reason = DAMAGED[kind]
    save(tmp_path, **{"42": make_regions(1, 3)})
    write(tmp_path)
    messages = []
    features = ExternalFeatures(tmp_path, [make_split()], on_message=messages.append)
    with pytest.raises(DataError, match=reason):
        features.load(1)
    for _ in range(2):
        grid = features.read(torch.tensor([0, 1]))
        np.testing.assert_array_equal(grid[0].numpy(), make_regions(1, 3))
        assert not grid[1].any()
    assert features.count_positions(torch.tensor([1])).tolist() == [1]
    assert len(messages) == 1  # not in every epoch
    assert messages[0].startswith("Replaced damaged features with zeros: ")
    assert features.readable == [0, 1]
    features.check()
    assert features.readable == [0]


def test_hdf5_group_and_damage_are_reported(tmp_path):
    path = write_hdf5(tmp_path / "all.h5", {"42": make_regions(1, 2), "7/box": np.zeros(2)})
    features = ExternalFeatures(path, [make_split()])
    with pytest.raises(DataError, match=r"cannot read '7' in .* is a group, expected a dataset"):
        features.load(1)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"cannot read the features '.*cut\.h5'"):
        ExternalFeatures(cut, [make_split()])


def test_hdf5_without_h5py_names_the_package(tmp_path, monkeypatch):
    path = write_hdf5(tmp_path / "all.h5", {"42": make_regions(1, 2)})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"h5py is not installed. Use pip install 'cap.*hdf5"):
        ExternalFeatures(path, [make_split()])


def test_disk_error_is_no_damaged_array(tmp_path, monkeypatch):
    """Training must stop: zeros instead of all features would spoil the model."""
    save(tmp_path, **{"42": make_regions(1, 2)})
    features = ExternalFeatures(tmp_path, [make_split()])

    def fail(name):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(features.files, "read", fail)
    with pytest.raises(OSError, match="Input/output error"):
        features.read(torch.tensor([0]))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "No such file or directory. Check the path"),
        ("features.tsv", "neither a folder nor an HDF5 file"),
        ("no.h5", "cannot read the features"),
        ("empty", r"it has no .npz or .npy file. For the first image.*: 42.npz, 42.npy, 0000"),
        ("others", r"it has 1 array, such as 'dog.npy'. For the first image"),
    ],
)
def test_wrong_location_is_explained(tmp_path, name, reason):
    (tmp_path / "features.tsv").write_text("42\t...")
    (tmp_path / "no.h5").write_text("text")
    for folder in ("empty", "others"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "others", dog=make_regions(1, 2))
    with pytest.raises(DataError, match=reason):
        ExternalFeatures(tmp_path / name, [make_split()])
