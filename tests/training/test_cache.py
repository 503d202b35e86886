"""Views in the cache: what an encoder makes of each, drawn again alike after an interruption."""

from pathlib import Path

import pytest
import torch

from captioning.data.reading import PictureReader
from captioning.data.views import view_of
from captioning.errors import SettingsError
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.training.cache import cache_features
from captioning.training.settings import TrainingConfig


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(EncoderConfig("timm:test_resnet", weights=None, image_size=32)).eval()


def cached(encoder, paths, folder, **settings):
    paths = [Path(path) for path in paths]
    return cache_features(
        encoder, paths, folder, grid=True, flip=True, crops=3, batch_size=4, workers=0, **settings
    )


def test_each_view_is_what_the_encoder_makes_of_it(encoder, pictures, tmp_path):
    cache = cached(encoder, pictures, tmp_path)
    assert cache.views == 5
    reader = PictureReader(encoder.preprocessing, 1, 0)
    for place, batch in enumerate(reader.batches(pictures)):
        if batch.errors[0]:
            assert place in cache.unreadable
            assert not cache.rows[place].any()
            continue
        for view in range(5):
            with torch.inference_mode():
                expected = encoder(view_of(batch.pixels, view, [place])).grid[0]
            found = cache.read(torch.tensor([place]), torch.tensor([view]))[0]
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_an_interrupted_cache_ends_as_a_whole_one(encoder, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("captioning.training.cache._FLUSH_EVERY", 1)
    whole = cached(encoder, pictures, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done >= 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        cached(encoder, pictures, tmp_path / "cut", watch=stop)
    left = []
    again = cached(encoder, pictures, tmp_path / "cut", watch=lambda done, total: left.append(done))
    assert left == [12]
    assert (again.rows == whole.rows).all()
    assert again.unreadable == whole.unreadable


def test_crops_without_mirror_images_are_refused():
    with pytest.raises(SettingsError, match="give it with mirror"):
        TrainingConfig(crops=2, mirror=False)
    with pytest.raises(SettingsError, match="crops is -1"):
        TrainingConfig(crops=-1)
