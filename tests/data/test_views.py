"""Views of a picture: which one is mirrored, that crops differ, and that they are drawn again."""

import torch

from captioning.data.views import view_of


def ramp(count: int) -> torch.Tensor:
    """Pictures that grow lighter from left to right and from top to bottom."""
    line = torch.arange(40)
    one = (line + 2 * line[:, None] + 60).to(torch.uint8).expand(3, 40, 40)
    return one.expand(count, 3, 40, 40)


def test_the_first_view_is_the_picture_and_the_second_is_mirrored():
    pictures = ramp(2)
    assert torch.equal(view_of(pictures, 0, [0, 1]), pictures)
    assert torch.equal(view_of(pictures, 1, [0, 1]), pictures.flip(3))


def test_crops_are_parts_of_the_picture_and_every_second_is_mirrored():
    pictures = ramp(30)
    for view in (2, 3, 4):
        found = view_of(pictures, view, range(30)).float()
        assert found.shape == pictures.shape
        across = found[..., -1].mean((1, 2)) - found[..., 0].mean((1, 2))
        down = found[..., -1, :].mean((1, 2)) - found[..., 0, :].mean((1, 2))
        assert bool((across < 0).all() if view % 2 else (across > 0).all())
        # A part of 60 % or more, contrast changed by a fifth at most: 39 and 78 in the whole.
        assert bool(((across.abs() > 39 * 0.6 * 0.7) & (across.abs() < 39 * 1.2 * 1.2)).all())
        assert bool(((down > 78 * 0.6 * 0.7) & (down < 78 * 1.2 * 1.2)).all())


def test_what_is_drawn_depends_on_picture_and_view_alone():
    pictures = ramp(3)
    before = torch.random.get_rng_state()
    first = view_of(pictures, 2, [7, 8, 9])
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    again = view_of(pictures[1:], 2, [8, 9])
    assert torch.equal(again, first[1:])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(view_of(pictures, 4, [7, 8, 9])[0], first[0])
