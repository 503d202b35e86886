"""Preprocessing: resizing equals torchvision, and normalization equals its formula."""

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from captioning.errors import ConfigError
from captioning.images.preprocessing import Preprocessing

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def bands(width: int, height: int, *, upright: bool) -> Image.Image:
    """Return red, green and blue thirds, side by side or stacked."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    axis = 1 if upright else 0
    for band, color in zip(np.array_split(pixels, 3, axis=axis), (RED, GREEN, BLUE), strict=True):
        band[:] = color
    return Image.fromarray(pixels)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("fit", ["squeeze", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (50, 101), (101, 50), (640, 480), (7, 900)])
def test_pixels_of_any_size_are_a_square_of_bytes(fit: str, size: tuple[int, int]) -> None:
    pixels = Preprocessing(size=32, fit=fit).pixels(noise(*size))
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), torch.uint8)


def test_pixels_have_channels_red_green_blue() -> None:
    pixels = Preprocessing(size=4).pixels(Image.new("RGB", (9, 7), (10, 20, 30)))
    assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [10, 20, 30]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_of_the_right_size_are_unchanged(interpolation: str) -> None:
    image = noise(24, 24)
    pixels = Preprocessing(size=24, interpolation=interpolation).pixels(image)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_antialiased(interpolation: str) -> None:
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 200  # without antialiasing, sampling sees all stripes or none
    pixels = Preprocessing(size=16, interpolation=interpolation).pixels(Image.fromarray(stripes))
    assert (pixels.float() - 100).abs().max() <= 2


@pytest.mark.parametrize("upright", [True, False])
def test_squeeze_keeps_all_and_crop_keeps_the_center(upright: bool) -> None:
    image = bands(300, 100, upright=True) if upright else bands(100, 300, upright=False)
    whole = Preprocessing(size=30, fit="squeeze").pixels(image)
    center = Preprocessing(size=30, fit="crop").pixels(image)
    line = whole[:, 15, :] if upright else whole[:, :, 15]
    assert [line[:, at].tolist() for at in (4, 15, 25)] == [list(RED), list(GREEN), list(BLUE)]
    inner = center[:, 3:-3, 3:-3].flatten(1)  # the filter mixes colors at the edge
    assert inner.unique(dim=1).flatten().tolist() == list(GREEN)


def test_crop_of_a_long_strip_equals_its_center() -> None:
    strip, size = noise(3000, 40), 20
    middle = strip.crop((1480, 0, 1520, 40))
    crop = Preprocessing(size=size, fit="crop")
    difference = crop.pixels(strip).float() - crop.pixels(middle).float()
    assert difference[:, :, 2:-2].abs().max() <= 1


def test_crop_never_resizes_a_whole_long_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    resize = Image.Image.resize

    def recorded(image: Image.Image, *args: object, **kwargs: object) -> Image.Image:
        result = resize(image, *args, **kwargs)
        widths.append(result.width)
        return result

    monkeypatch.setattr(Image.Image, "resize", recorded)
    strip = Image.new("RGB", (200_000, 2))
    assert Preprocessing(size=64, fit="crop").pixels(strip).shape == (3, 64, 64)
    assert max(widths) <= 4 * 64


def test_normalize_equals_the_formula() -> None:
    preprocessing = Preprocessing(size=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    expected = pixels.numpy().astype(np.float64) / 255
    for channel, (mean, std) in enumerate(((0.5, 0.2), (0.4, 0.3), (0.3, 0.4))):
        expected[:, channel] = (expected[:, channel] - mean) / std
    normalized = preprocessing.normalize(pixels)
    assert normalized.dtype == torch.float32
    np.testing.assert_allclose(normalized.numpy(), expected, atol=1e-6)


def test_normalize_is_independent_of_the_batch() -> None:
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    together = Preprocessing(size=8).normalize(pixels)
    alone = torch.cat([Preprocessing(size=8).normalize(one[None]) for one in pixels])
    assert torch.equal(together, alone)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size is 0; it must be from 1 to 4096"),
        ({"size": 5000}, "size is 5000"),
        ({"interpolation": "nearest"}, r"interpolation is 'nearest'; choose one of .*bicubic"),
        ({"fit": "stretch"}, "fit is 'stretch'; choose 'squeeze' or 'crop'"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be above 0"),
        ({"mean": (0.5, 0.5)}, "three numbers each"),
        ({"std": (0.2, float("nan"), 0.2)}, r"std is \(0.2, nan, 0.2\).*std from"),
        ({"std": (0.2, float("inf"), 0.2)}, "std from 0.000001 to 1000000"),
        ({"std": (0.2, 1e-300, 0.2)}, "std from"),
        ({"mean": (float("nan"), 0.5, 0.5)}, r"mean is \(nan, 0.5, 0.5\).*must be from"),
        ({"mean": (0.5, 10**400, 0.5)}, "mean must be from -10000 to 10000"),
    ],
)
def test_invalid_preprocessing_is_refused(
    settings: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Users run without the type checks of the suite, which would raise earlier.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**settings)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fit", ["squeeze", "crop"])
@pytest.mark.parametrize(
    "size", [(1, 1), (33, 32), (50, 101), (101, 50), (319, 320), (640, 427), (7, 900), (900, 31)]
)
def test_pixels_equal_torchvision(size, fit, interpolation) -> None:
    image, mode = noise(*size), v2.InterpolationMode(interpolation)
    if fit == "crop":
        short = min(image.size)
        bounds = [min(image.height, 4 * short), min(image.width, 4 * short)]
        expected = v2.functional.center_crop(image, bounds)
        expected = v2.functional.resize(expected, [32], interpolation=mode)
        expected = v2.functional.center_crop(expected, [32, 32])
    else:
        expected = v2.functional.resize(image, [32, 32], interpolation=mode)
    pixels = Preprocessing(size=32, fit=fit, interpolation=interpolation).pixels(image)
    assert torch.equal(pixels, v2.functional.pil_to_tensor(expected))
