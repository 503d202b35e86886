"""Image augmentation: fixed views are reproducible, and batches equal what Pillow computes."""

import torch
from PIL import Image, ImageEnhance

from captioning.images.augmentation import RANDOM_VALUES, augment_batch, fixed_view

NO_HFLIP = torch.zeros(1, dtype=torch.bool)


def ramp(count: int) -> torch.Tensor:
    """Return images that become lighter from left to right and from top to bottom."""
    line = torch.arange(40)
    one = (line + 2 * line[:, None] + 60).to(torch.uint8).expand(3, 40, 40)
    return one.expand(count, 3, 40, 40)


def test_fixed_views_0_and_1_are_the_image_and_its_hflip():
    images = ramp(2)
    assert torch.equal(fixed_view(images, 0, [0, 1]), images)
    assert torch.equal(fixed_view(images, 1, [0, 1]), images.flip(3))


def test_fixed_views_from_2_on_are_crops_and_odd_flipped():
    images = ramp(30)
    for view in (2, 3, 4):
        found = fixed_view(images, view, range(30)).float()
        assert found.shape == images.shape
        across = found[..., -1].mean((1, 2)) - found[..., 0].mean((1, 2))
        down = found[..., -1, :].mean((1, 2)) - found[..., 0, :].mean((1, 2))
        assert bool((across < 0).all() if view % 2 else (across > 0).all())
        # 60 % of the area or more, contrast changed by at most a fifth; 39 and 78 in the original.
        assert bool(((across.abs() > 39 * 0.6 * 0.7) & (across.abs() < 39 * 1.2 * 1.2)).all())
        assert bool(((down > 78 * 0.6 * 0.7) & (down < 78 * 1.2 * 1.2)).all())


def test_fixed_view_depends_on_image_and_view_only():
    images = ramp(3)
    before = torch.random.get_rng_state()
    first = fixed_view(images, 2, [7, 8, 9])
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    again = fixed_view(images[1:], 2, [8, 9])
    assert torch.equal(again, first[1:])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(fixed_view(images, 4, [7, 8, 9])[0], first[0])


def test_augment_batch_keeps_a_third_and_flips_as_told():
    images = torch.randint(256, (600, 3, 8, 8), dtype=torch.uint8)
    random_values, hflip = torch.rand(600, RANDOM_VALUES), torch.arange(600) % 2 == 1
    found = augment_batch(images, random_values, hflip=hflip)
    expected = torch.where(hflip[:, None, None, None], images.flip(3), images)
    same = (found == expected).flatten(1).all(1)
    assert 150 < int(same.sum()) < 250


def test_augment_batch_crop_equals_pillow(monkeypatch):
    monkeypatch.setattr("captioning.images.augmentation._STRENGTH", 0.0)
    line = torch.linspace(0, 1, 120)
    smooth = 127 + 60 * (torch.sin(5 * line) + torch.cos(3 * line[:, None]))
    image = smooth.clamp(0, 255).to(torch.uint8).expand(1, 3, 120, 120)
    random_values = torch.tensor([[0.3, 0.8, 0.9, 0.2, 0, 0, 0, 0.9]])
    found = augment_batch(image, random_values, hflip=NO_HFLIP)
    area, ratio = 0.6 + 0.4 * 0.3, 0.8 * (1.25 / 0.8) ** 0.8
    width, height = 120 * (area * ratio) ** 0.5, 120 * (area / ratio) ** 0.5
    left, top = 0.9 * (120 - width), 0.2 * (120 - height)
    whole = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    box = (left, top, left + width, top + height)
    cut = whole.resize((120, 120), Image.Resampling.BILINEAR, box=box)
    expected = torch.tensor(list(cut.tobytes())).view(120, 120, 3).permute(2, 0, 1)
    assert (found[0].int() - expected).abs().max() <= 2
    of_flipped = augment_batch(image.flip(3), random_values, hflip=~NO_HFLIP)
    assert torch.equal(of_flipped, found)


def test_augment_batch_is_the_same_under_autocast():
    images = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8)
    random_values, hflip = torch.rand(6, RANDOM_VALUES), torch.rand(6) < 0.5
    with torch.autocast("cpu", torch.bfloat16):
        found = augment_batch(images, random_values, hflip=hflip)
    assert torch.equal(found, augment_batch(images, random_values, hflip=hflip))


def test_augment_batch_color_jitter_equals_pillow():
    pixels = torch.randint(60, 180, (1, 3, 16, 16), dtype=torch.uint8)
    # The area and ratio make the crop the whole image.
    random_values = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.9, 0.1, 1.0, 0.9]])
    found = augment_batch(pixels, random_values, hflip=NO_HFLIP)[0].int()
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    image = ImageEnhance.Brightness(image).enhance(1.16)
    image = ImageEnhance.Contrast(image).enhance(0.84)
    image = ImageEnhance.Color(image).enhance(1.2)
    expected = torch.tensor(list(image.tobytes())).view(16, 16, 3).permute(2, 0, 1)
    assert (found - expected).abs().max() <= 3
