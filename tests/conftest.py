"""Shape checks for the whole suite, and shared images and models."""

from pathlib import Path

from jaxtyping import install_import_hook

# Modules with shapes in their signatures, before any import of them. mypy checks the other types.
SHAPED = [
    ".".join(path.with_suffix("").parts[-3:])
    for path in Path(__file__).parents[1].glob("captioning/*/*.py")
    if "from jaxtyping" in path.read_text()
]
install_import_hook(SHAPED, "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402
from drawn_images import draw  # noqa: E402
from small_captioner import small_checkpoint  # noqa: E402

from captioning.inference.captioner import Captioner  # noqa: E402

torch.set_num_threads(1)  # pytest-xdist runs one process per core


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.set_num_threads(1)  # a test may have changed it
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep converted graphs out of the user's cache, in this process and in those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTIONING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Twelve image files; the fourth, the seventh and the eighth are damaged."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"image{number}.png" for number in range(1, 13)]
    for number, path in enumerate(paths):
        draw(number).save(path)
    paths[3].write_bytes(b"")
    paths[6].write_bytes(paths[5].read_bytes()[:500])
    paths[7].write_bytes(b"no image")
    return [str(path) for path in paths]


@pytest.fixture(scope="session")
def captioner():
    """The shared tiny captioner; its captions differ from image to image."""
    return Captioner(small_checkpoint())


@pytest.fixture(scope="session")
def model(captioner, tmp_path_factory):
    """The directory of the shared tiny model."""
    directory = tmp_path_factory.mktemp("models") / "small"
    captioner.save_pretrained(directory)
    return directory
