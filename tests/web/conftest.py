"""A server of the tiny model, without sockets and without worker processes."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from captioning.web.api import create_app
from captioning.web.limits import ServerLimits
from captioning.web.service import CaptionService


@pytest.fixture
def open_client(captioner):
    """Return a context manager: a client of a server with the given limits."""

    @contextmanager
    def open_it(limits=None, *, routes=lambda service: [], token="", any_host=False, **options):
        service = CaptionService(captioner, limits or ServerLimits(workers=0))
        app = create_app(service, token=token, any_host=any_host, routes=routes(service))
        with TestClient(app, base_url="http://localhost:8080", **options) as client:
            client.service = service
            yield client

    return open_it


@pytest.fixture
def client(open_client):
    """A client of a server with the default limits."""
    with open_client() as client:
        yield client


@pytest.fixture
def photo(images):
    """The content of an image file."""
    return Path(images[0]).read_bytes()
