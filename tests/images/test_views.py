"""Views of an image: which one is mirrored, that crops differ, and that they are drawn again."""

import torch
from PIL import Image, ImageEnhance

from captioning.images.augmentation import CHANCES, drawn_view, view_of

AS_IT_IS = torch.zeros(1, dtype=torch.bool)


def ramp(count: int) -> torch.Tensor:
    """Images that grow lighter from left to right and from top to bottom."""
    line = torch.arange(40)
    one = (line + 2 * line[:, None] + 60).to(torch.uint8).expand(3, 40, 40)
    return one.expand(count, 3, 40, 40)


def test_the_first_view_is_the_image_and_the_second_is_mirrored():
    images = ramp(2)
    assert torch.equal(view_of(images, 0, [0, 1]), images)
    assert torch.equal(view_of(images, 1, [0, 1]), images.flip(3))


def test_crops_are_parts_of_the_image_and_every_second_is_mirrored():
    images = ramp(30)
    for view in (2, 3, 4):
        found = view_of(images, view, range(30)).float()
        assert found.shape == images.shape
        across = found[..., -1].mean((1, 2)) - found[..., 0].mean((1, 2))
        down = found[..., -1, :].mean((1, 2)) - found[..., 0, :].mean((1, 2))
        assert bool((across < 0).all() if view % 2 else (across > 0).all())
        # A part of 60 % or more, contrast changed by a fifth at most: 39 and 78 in the whole.
        assert bool(((across.abs() > 39 * 0.6 * 0.7) & (across.abs() < 39 * 1.2 * 1.2)).all())
        assert bool(((down > 78 * 0.6 * 0.7) & (down < 78 * 1.2 * 1.2)).all())


def test_what_is_drawn_depends_on_image_and_view_alone():
    images = ramp(3)
    before = torch.random.get_rng_state()
    first = view_of(images, 2, [7, 8, 9])
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    again = view_of(images[1:], 2, [8, 9])
    assert torch.equal(again, first[1:])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(view_of(images, 4, [7, 8, 9])[0], first[0])


def test_a_third_of_the_drawn_views_are_whole_and_mirrored_where_asked_for():
    images = torch.randint(256, (600, 3, 8, 8), dtype=torch.uint8)
    chance, mirrored = torch.rand(600, CHANCES), torch.arange(600) % 2 == 1
    found = drawn_view(images, chance, mirrored=mirrored)
    expected = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    same = (found == expected).flatten(1).all(1)
    assert 150 < int(same.sum()) < 250


def test_drawn_parts_lie_where_they_are_said_to(monkeypatch):
    """The crop that is drawn is the one that Pillow cuts out and enlarges."""
    monkeypatch.setattr("captioning.images.augmentation._STRENGTH", 0.0)
    line = torch.linspace(0, 1, 120)
    smooth = 127 + 60 * (torch.sin(5 * line) + torch.cos(3 * line[:, None]))
    image = smooth.clamp(0, 255).to(torch.uint8).expand(1, 3, 120, 120)
    chance = torch.tensor([[0.3, 0.8, 0.9, 0.2, 0, 0, 0, 0.9]])
    found = drawn_view(image, chance, mirrored=AS_IT_IS)
    area, ratio = 0.6 + 0.4 * 0.3, 0.8 * (1.25 / 0.8) ** 0.8
    width, height = 120 * (area * ratio) ** 0.5, 120 * (area / ratio) ** 0.5
    left, top = 0.9 * (120 - width), 0.2 * (120 - height)
    whole = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    box = (left, top, left + width, top + height)
    cut = whole.resize((120, 120), Image.Resampling.BILINEAR, box=box)
    expected = torch.tensor(list(cut.tobytes())).view(120, 120, 3).permute(2, 0, 1)
    assert (found[0].int() - expected).abs().max() <= 2
    of_mirror = drawn_view(image.flip(3), chance, mirrored=~AS_IT_IS)
    assert torch.equal(of_mirror, found)


def test_16_bit_training_draws_the_same():
    images = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8)
    chance, mirrored = torch.rand(6, CHANCES), torch.rand(6) < 0.5
    with torch.autocast("cpu", torch.bfloat16):
        found = drawn_view(images, chance, mirrored=mirrored)
    assert torch.equal(found, drawn_view(images, chance, mirrored=mirrored))


def test_the_light_of_drawn_views_is_what_pillow_makes_of_it():
    pixels = torch.randint(60, 180, (1, 3, 16, 16), dtype=torch.uint8)
    # area and ratio such that the part is the whole
    chance = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.9, 0.1, 1.0, 0.9]])
    found = drawn_view(pixels, chance, mirrored=AS_IT_IS)[0].int()
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    image = ImageEnhance.Brightness(image).enhance(1.16)
    image = ImageEnhance.Contrast(image).enhance(0.84)
    image = ImageEnhance.Color(image).enhance(1.2)
    expected = torch.tensor(list(image.tobytes())).view(16, 16, 3).permute(2, 0, 1)
    assert (found - expected).abs().max() <= 3
