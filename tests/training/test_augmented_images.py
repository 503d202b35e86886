"""Online augmentation: whole images in validation, random views in training."""

from pathlib import Path

import pytest
import torch

from captioning.errors import ConfigError
from captioning.features.cache import JoinedCaches
from captioning.features.extraction import plan_pixels
from captioning.images.augmentation import RANDOM_VALUES, augment_batch
from captioning.images.loader import ImageLoader
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.split_encoder import split_encoder
from captioning.training.augmented_images import AugmentedImages
from captioning.training.training_config import TrainingConfig


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(EncoderConfig("timm:test_resnet", weights=None, image_size=32)).eval()


@pytest.fixture
def augmented_images(encoder, images, tmp_path):
    paths = [Path(path) for path in images]
    halves = (paths[:5], paths[5:])
    caches = [
        plan_pixels(encoder.preprocessing, half, tmp_path, batch_size=3, workers=0).run()
        for half in halves
    ]
    return AugmentedImages(JoinedCaches(caches), encoder)


def test_augmented_images_without_views_are_whole_images(encoder, augmented_images, images):
    assert len(augmented_images) == len(images)
    seen = 0
    for place, batch in enumerate(ImageLoader(encoder.preprocessing, 1, 0).batches(images)):
        if batch.errors[0]:
            assert batch.errors[0] == augmented_images.unreadable[place]
            assert place not in augmented_images.readable
            continue
        with torch.inference_mode():
            expected = encoder(batch.pixels).grid
        torch.testing.assert_close(augmented_images.read(torch.tensor([place])), expected)
        seen += 1
    assert seen == len(augmented_images.readable) > 5
    assert augmented_images.unreadable


def test_augmented_images_views_follow_the_random_state(encoder, augmented_images, images):
    rows = torch.tensor(augmented_images.readable[:6])
    views = torch.tensor([0, 1, 0, 1, 0, 1])
    torch.manual_seed(3)
    first, second = augmented_images.read(rows, views), augmented_images.read(rows, views)
    assert not torch.equal(first, second)
    sources = [images[row] for row in rows.tolist()]
    (batch,) = ImageLoader(encoder.preprocessing, 6, 0).batches(sources)
    torch.manual_seed(3)
    shown = augment_batch(batch.pixels, torch.rand(6, RANDOM_VALUES), hflip=views == 1)
    with torch.inference_mode():
        expected = encoder(shown).grid
    torch.testing.assert_close(first, expected)


def test_augmented_images_front_and_tail_equal_the_encoder(encoder, augmented_images):
    front, tail = split_encoder(encoder, 2)
    rows = torch.tensor(augmented_images.readable)
    with torch.inference_mode():
        found = tail(AugmentedImages(augmented_images.pixels, front).read(rows))
    torch.testing.assert_close(found, augmented_images.read(rows), rtol=1e-3, atol=1e-4)


def test_online_augmentation_with_cached_crops_is_refused():
    with pytest.raises(ConfigError, match="Set cached_crops to 0"):
        TrainingConfig(online_augmentation=True, cached_crops=2)
