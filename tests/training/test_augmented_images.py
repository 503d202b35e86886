"""Images looked at anew: the whole is what the encoder sees, and no part is twice the same."""

from pathlib import Path

import pytest
import torch

from captioning.errors import ConfigError
from captioning.features.cache import JoinedCaches
from captioning.features.extraction import cache_pixels
from captioning.images.augmentation import RANDOM_VALUES, augment_batch
from captioning.images.loader import ImageLoader
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.split_encoder import cut
from captioning.training import TrainingConfig
from captioning.training.augmented_images import AugmentedImages


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(EncoderConfig("timm:test_resnet", weights=None, image_size=32)).eval()


@pytest.fixture
def live(encoder, images, tmp_path):
    paths = [Path(path) for path in images]
    halves = (paths[:5], paths[5:])
    caches = [
        cache_pixels(encoder.preprocessing, half, tmp_path, batch_size=3, workers=0)
        for half in halves
    ]
    return AugmentedImages(JoinedCaches(caches), encoder)


def test_whole_images_are_what_the_encoder_sees(encoder, live, images):
    assert len(live) == len(images)
    seen = 0
    for place, batch in enumerate(ImageLoader(encoder.preprocessing, 1, 0).batches(images)):
        if batch.errors[0]:
            assert batch.errors[0] == live.unreadable[place]
            assert place not in live.readable
            continue
        with torch.inference_mode():
            expected = encoder(batch.pixels).grid
        torch.testing.assert_close(live.read(torch.tensor([place])), expected)
        seen += 1
    assert seen == len(live.readable) > 5
    assert live.unreadable


def test_views_are_drawn_from_the_state_of_chance(encoder, live, images):
    rows = torch.tensor(live.readable[:6])
    views = torch.tensor([0, 1, 0, 1, 0, 1])
    torch.manual_seed(3)
    first, second = live.read(rows, views), live.read(rows, views)
    assert not torch.equal(first, second)
    sources = [images[row] for row in rows.tolist()]
    (batch,) = ImageLoader(encoder.preprocessing, 6, 0).batches(sources)
    torch.manual_seed(3)
    shown = augment_batch(batch.pixels, torch.rand(6, RANDOM_VALUES), hflip=views == 1)
    with torch.inference_mode():
        expected = encoder(shown).grid
    torch.testing.assert_close(first, expected)


def test_a_front_and_its_tail_make_the_same_of_it(encoder, live):
    front, tail = cut(encoder, 2)
    rows = torch.tensor(live.readable)
    with torch.inference_mode():
        found = tail(AugmentedImages(live.pixels, front).read(rows))
    torch.testing.assert_close(found, live.read(rows), rtol=1e-3, atol=1e-4)


def test_live_and_cached_crops_are_one_or_the_other():
    with pytest.raises(ConfigError, match="Set cached_crops to 0"):
        TrainingConfig(online_augmentation=True, cached_crops=2)
