"""A server of the tiny model, without sockets and without worker processes."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from captioning.web.api import create_app
from captioning.web.limits import ServerLimits
from captioning.web.service import CaptionService

PATIENT = ServerLimits(workers=0, max_seconds=600)  # slow computers must not fail


@pytest.fixture
def open_client(captioner):
    """Return a context manager: a client of a server with the given limits."""

    @contextmanager
    def open_it(limits=PATIENT, *, make_page=lambda service: None, model=captioner, **options):
        access = {name: options.pop(name) for name in ("token", "any_host") if name in options}
        service = CaptionService(model, limits)
        try:
            app = create_app(service, page=make_page(service), **access)
            with TestClient(app, base_url="http://localhost:8080", **options) as client:
                client.service = service
                yield client
        finally:
            service.close()

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
