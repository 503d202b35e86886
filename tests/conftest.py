"""Shape checking for the whole suite, and the small models that many tests share."""

from jaxtyping import install_import_hook

install_import_hook("captioning", "beartype.beartype")  # before any import of the package

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)  # pytest-xdist runs one process per core


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
