"""Caption images over HTTP.

POST /caption takes one image as the body, or several in a form. GET /openapi.json describes all
requests. Without --host, only this computer reaches the server. With another host, every request
except GET /health needs a token. Set it in the environment variable CAPTIONING_TOKEN; without it,
the server makes a token and prints it. Ctrl-C stops the server.

For example:

    captioning serve
    captioning serve --model runs/first/model --port 9000
    captioning serve --host 0.0.0.0 --max-body 100

    curl -F image=@photo.jpg http://localhost:8080/caption
    curl -F image=@a.jpg -F image=@b.jpg 'http://localhost:8080/caption?search=beam&n=3'
"""

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from captioning.cli.progress import stderr_console
from captioning.inference.backend_config import BackendConfig
from captioning.web.limits import ServerLimits

if TYPE_CHECKING:  # starlette and torch are slow to import, and --help does not need them
    from captioning.web.pages import Page
    from captioning.web.service import CaptionService

TOKEN_VARIABLE = "CAPTIONING_TOKEN"


@dataclass(frozen=True)
class ServeConfig:
    """A server of captions."""

    SECTIONS: ClassVar = {"host": "server", "model": "model", "limits": "limit"}

    host: str = "localhost"
    """Host name or address to listen on; 0.0.0.0 for all networks of this computer."""
    port: int = 8080
    """Port to listen on (0: any free port)."""

    model: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: the packaged model)"),
    ] = None
    """Model directory, or id on the Hugging Face Hub."""
    device: str = "auto"
    """Device: auto (CUDA, then MPS, then the CPU), cpu, cuda, cuda:1, or mps."""
    backend: Annotated[BackendConfig, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        default_factory=BackendConfig
    )

    limits: Annotated[ServerLimits, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(
        default_factory=ServerLimits
    )


def run(config: ServeConfig) -> int:
    """Serve captions and return the exit code."""
    return run_server(config, "captions", lambda service: None)


def run_server(
    config: ServeConfig,
    content: str,
    make_page: "Callable[[CaptionService], Page | None]",
    on_ready: Callable[[str], None] = lambda url: None,
) -> int:
    """Load the model, and serve until Ctrl-C.

    Args:
        config: The address, the model and the limits.
        content: What is served, for the message.
        make_page: Returns the page, if there is one.
        on_ready: Called with the address when the server accepts requests.
    """
    from captioning.web.server import open_address, require_packages, serve

    require_packages()
    address = open_address(config.host, config.port, os.environ.get(TOKEN_VARIABLE, ""))
    console = stderr_console()
    from captioning.inference.captioner import Captioner
    from captioning.web.api import create_app
    from captioning.web.service import CaptionService

    captioner = Captioner.from_pretrained(
        config.model, device=config.device, **asdict(config.backend)
    )
    service = CaptionService(captioner, config.limits)
    service.warm_up()
    page = make_page(service)
    app = create_app(service, token=address.token, any_host=not address.is_local, page=page)

    def report() -> None:
        console.print(f"Serving {content} at {address.url} (Ctrl-C stops the server)")
        on_ready(address.url)

    try:
        serve(app, address, report)
    except KeyboardInterrupt:  # uvicorn has finished the requests
        print(file=sys.stderr)  # noqa: T201
    console.print("Stopped.")
    return 0
