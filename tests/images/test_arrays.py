"""Images from arrays and tensors: what is accepted, and the conversion that an error names."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from captioning.errors import ImageError
from captioning.images.decode import read_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
RGB[0, 0] = 255
GRAY = np.ascontiguousarray(RGB[:, :, 0])
ALPHA = np.ascontiguousarray(RGB[:, :, 1:2])


def tensor(values):
    """Return the tensor with channels first, as torchvision makes it."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 2, 0)))


def pixels(source):
    return np.asarray(read_image(source))


def saved(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "source",
    [
        RGB,
        RGB[::-1][::-1],
        np.asfortranarray(RGB),
        RGB.astype(np.uint16) * 257,
        (RGB.astype(">u2") << 8) + 77,
        RGB / 255,
        (RGB / 255).astype(np.float16),
        (RGB / 255).astype(">f4"),
        RGB.astype(np.float32) / 255 * 1.0000002,
        np.ma.masked_array(RGB),
        tensor(RGB),
        tensor(RGB.transpose(1, 0, 2)).transpose(1, 2),
        tensor(RGB).float().div(255).requires_grad_(),
        tensor(RGB).double() / 255,
        tensor(RGB).half() / 255,
    ],
)
def test_colors_of_every_type_are_read_alike(source):
    np.testing.assert_array_equal(pixels(source), RGB)


@pytest.mark.parametrize(
    "source",
    [
        GRAY,
        GRAY[:, :, None],
        GRAY / 255,
        GRAY[:, :, None] / np.float32(255),
        GRAY.astype(np.uint16) * 257,
        torch.from_numpy(GRAY),
        tensor(GRAY[:, :, None]).float() / 255,
    ],
)
def test_gray_of_every_type_is_read_alike(source):
    np.testing.assert_array_equal(pixels(source), np.stack([GRAY] * 3, 2))


@pytest.mark.parametrize("colors", [GRAY[:, :, None], RGB])
@pytest.mark.parametrize("kind", [np.asarray, tensor, lambda values: values / 255])
def test_alpha_of_an_array_is_placed_over_white(colors, kind):
    values = np.concatenate([colors, ALPHA], axis=2)
    expected = pixels(saved(Image.fromarray(values)))
    np.testing.assert_array_equal(pixels(kind(values)), expected)
    exact = 255 - ALPHA / 255 * (255.0 - colors)  # over white
    assert np.abs(expected - exact).max() <= 1


def test_truth_values_are_black_and_white():
    mask = GRAY > 100
    for source in (mask, torch.from_numpy(mask), mask[:, :, None]):
        np.testing.assert_array_equal(pixels(source), np.stack([mask * 255] * 3, 2))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_16_bit_array_equals_its_png(bits):
    values = np.random.default_rng(0).integers(0, 1 << bits, (5, 7), np.uint16)
    values[0, 0] = (1 << bits) - 1
    np.testing.assert_array_equal(pixels(values), pixels(saved(Image.fromarray(values))))
    colors = pixels(np.dstack([values] * 3))
    assert colors.min() == values.min() >> (bits - 8)
    assert colors.max() == 255


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (RGB.astype(np.float32), r"its values are \S+ to 255, not 0 to 1\. Divide them by 255\."),
        (RGB * 257.0, r"its values are \S+ to 6\S+, not 0 to 1\. Divide them by 65535\."),
        (RGB / 255 * 1.05, r"not 0 to 1\. Clip them to 0 and 1\."),
        (RGB / 100 - 1, r"If they are normalized, undo it: array \* std \+ mean\."),
        (tensor(RGB) / 100 - 1, r"If they are normalized, undo it: array \* std \+ mean\."),
        (np.full((4, 4, 3), np.nan), r"NaN or infinite\. Replace them: numpy\.nan_to_num"),
        (np.full((4, 4), np.inf), r"NaN or infinite\. Replace them: numpy\.nan_to_num"),
        (RGB.astype(np.int64), r"int64\. .*Its values are 0 to 255: convert it to uint8\."),
        (tensor(RGB).long(), r"int64\. .*Its values are 0 to 255: convert it to uint8\."),
        (RGB.astype(np.int32) * 9, r"int32\. .*Its values are 0 to \d+: scale them to 0 to 255"),
        (RGB.astype(np.complex64), r"type complex64\. Give uint8"),
        (RGB.astype(object), r"type object\. Give uint8"),
        (RGB.transpose(2, 0, 1), r"Put the channels last: array\.transpose\(1, 2, 0\)"),
        (torch.from_numpy(RGB), r"Put the channels first: tensor\.permute\(2, 0, 1\)"),
        (np.zeros((8, 8, 7), np.uint8), r"Give \(height, width, channels\) with 1 to 4 channels"),
        (RGB[None], r"It is a batch: pass it to captioner\(\.\.\.\)"),
        (tensor(RGB)[None], r"It is a batch: pass it to captioner\(\.\.\.\)"),
        (np.zeros((0, 4, 3), np.uint8), "It has no pixels"),
        (np.zeros(9, np.uint8), r"the content of a file as bytes: array\.tobytes\(\)"),
        (torch.zeros(1, 1, 3, 4, 4), "Give two or three dimensions"),
        (torch.zeros(3, 4, 4, device="meta"), r"Give a dense array in main memory"),
        (
            tensor(RGB).to_sparse(),
            r"Tensor\.(to_)?dense\(\) first\. Give a dense array in",
        ),
        ("", "an empty text"),
        (io.StringIO("a"), r"a file in text mode\. Open it in binary mode"),
        ({"image": 1, "text": 2}, r"a dict with the keys \['image', 'text'\]\. Give the value"),
        ({"bytes": None, "path": None}, r"None\. Give a path"),
        (None, r"None\. Give a path"),
    ],
)
def test_source_that_needs_a_conversion_names_it(source, advice):
    with pytest.raises(ImageError, match=rf"^cannot read an image from .*{advice}"):
        read_image(source)


def test_brain_floats_are_read_with_their_precision():
    found = pixels((tensor(RGB).float() / 255).bfloat16())
    assert np.abs(found.astype(int) - RGB).max() <= 1
