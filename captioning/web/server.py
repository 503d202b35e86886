"""Running the application in uvicorn."""

import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from captioning.errors import ConfigError
from captioning.messages import explain_error

PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client")
"""Packages of the extra ``web``."""
_LOCAL = ("localhost", "127.0.0.1", "::1")
_MIN_TOKEN = 16  # characters


@dataclass(frozen=True)
class Address:
    """Where a server listens, and the token that its clients need.

    Attributes:
        socket: The open socket.
        host: The host as it was given.
        token: The token; empty for none.
    """

    socket: socket.socket
    host: str
    token: str

    @property
    def is_local(self) -> bool:
        """Whether only this computer reaches the server."""
        return self.host in _LOCAL

    @property
    def url(self) -> str:
        """Address of the server, with the token."""
        wildcard = self.host in ("0.0.0.0", "::")
        name = socket.gethostname() if wildcard else self.host
        name = f"[{name}]" if ":" in name else name
        query = f"?token={self.token}" if self.token else ""
        return f"http://{name}:{self.socket.getsockname()[1]}/{query}"


def open_address(host: str, port: int, token: str) -> Address:
    """Open the socket of a server.

    Args:
        host: Host name or address. If other computers can reach it and there is no token, the
            address gets a random one.
        port: The port; 0 for any free one.
        token: The token; empty for none.

    Raises:
        ConfigError: The port is taken or not allowed, or the token is too short.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port}; it must be from 0 to 65,535.")
    if token and (len(token) < _MIN_TOKEN or not token.isascii() or not token.isalnum()):
        raise ConfigError(
            f"the token in CAPTIONING_TOKEN has {len(token)} characters. Use {_MIN_TOKEN} or more "
            "letters and digits."
        )
    try:
        families = [found[0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        # Clients of localhost try both families; some address 127.0.0.1.
        family = socket.AF_INET if socket.AF_INET in families else families[0]
        opened = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = explain_error(error).partition(" (while")[0]
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}. Use another --port, or "
            "--port 0 for any free one."
        ) from error
    needs_token = not token and host not in _LOCAL
    return Address(opened, host, secrets.token_hex(16) if needs_token else token)


def serve(app: Callable[..., object], address: Address, on_ready: Callable[[], None]) -> None:
    """Serve an application until Ctrl-C or SIGTERM.

    Args:
        app: The application.
        address: Where to listen.
        on_ready: Called when the server accepts requests.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
            await super().startup(sockets)
            on_ready()

    # The reply to a malformed form says what is wrong with it.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    Server(config).run([address.socket])


def require_packages() -> None:
    """Check that the packages of the extra ``web`` are installed.

    Raises:
        ConfigError: One is missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError(
            f"the web server needs {', '.join(missing)}. Run pip install {' '.join(missing)}"
        )
