"""The connection to a Ray cluster, which prints nothing on its own."""

import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from captioning.bulk.cluster.config import ClusterConfig
from captioning.errors import ConfigError

_OBJECT_STORE = 200 << 20  # bytes; it holds no images


def import_ray() -> Any:
    """Return the ray package with its data module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import ray.data
    except ImportError:
        raise ConfigError(
            'captioning on a cluster needs Ray. Run `pip install "ray[data]<2.64"`.'
        ) from None
    return ray


@contextmanager
def connect_to_ray(config: ClusterConfig) -> Iterator[Any]:
    """Connect to a cluster, or start Ray on this machine; yield the ray package.

    A connection of the caller is used and stays open. Ray prints messages about dead nodes on
    standard output, where results go; inside this context, they go to standard error.

    Raises:
        ConfigError: There is no cluster at the address, or an actor does not fit this machine.
    """
    ray = import_ray()
    with redirect_stdout(_Messages()):
        if ray.is_initialized():
            yield ray
            return
        address = config.ray_address or os.environ.get("RAY_ADDRESS")
        _init_ray(ray, address)
        try:
            if address is None:
                _check_resources(ray.cluster_resources(), config)
            yield ray
        finally:
            ray.shutdown()


class _Messages(io.TextIOBase):
    """Passes lines on to standard error, except those about actors that this process has ended."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if "killed by `ray.kill`" not in line:
                sys.stderr.write(f"{line}\n")
        return len(text)

    def fileno(self) -> int:
        return sys.stderr.fileno()


def _init_ray(ray: Any, address: str | None) -> None:
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
        }
    try:
        with _without_native_messages():
            ray.init(**options, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        place = f"connect to Ray at {address}" if address else "start Ray on this machine"
        advice = (
            "Check --ray-address or RAY_ADDRESS" if address else "Check the installation of Ray"
        )
        raise ConfigError(f"cannot {place}: {reason}. {advice}.") from error


@contextmanager
def _without_native_messages() -> Iterator[None]:
    """Keep Ray's C++ library, which does not use ``sys.stderr``, from writing to the terminal."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray prints once that this is set
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def _check_resources(available: Mapping[str, float], config: ClusterConfig) -> None:
    for name, wanted in (("CPU", config.cpus_per_actor), ("GPU", config.gpus_per_actor)):
        if wanted > available.get(name, 0):
            flag = f"--{name.lower()}s-per-actor"
            raise ConfigError(
                f"{flag} is {wanted:g}, but this machine has {available.get(name, 0):g} {name}s. "
                f"Use a smaller {flag}, or --ray-address for a cluster."
            )


@contextmanager
def quiet_ray_data(ray: Any) -> Iterator[None]:
    """Keep Ray Data from writing its own progress to the terminal."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])
