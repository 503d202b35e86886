"""Config of captioning on a Ray cluster."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from captioning.errors import ConfigError
from captioning.messages import check_minimum, check_ranges
from captioning.sources.given_names import absolute_name

IMAGE_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp", "url", "URL", "path", "file_name")
"""Columns of Parquet files in which images are looked for, in this order."""


@dataclass(frozen=True)
class ClusterConfig:
    """How Ray captions the inputs, and which of them."""

    ray_address: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="ADDRESS",
            help_behavior_hint="(default: the environment variable RAY_ADDRESS, if it is set)",
        ),
    ] = None
    """Address of a Ray cluster, or auto for one that runs on this machine. Without an address, Ray
    is started on this machine for the run."""
    min_actors: int = 1
    """Smallest number of actors (1 or more); the run starts with it. An actor is a process that
    captions images with a copy of the model."""
    max_actors: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: as many as fit)"),
    ] = None
    """Largest number of actors."""
    cpus_per_actor: float = 1.0
    """CPUs that an actor reserves, and threads of its model (above 0)."""
    gpus_per_actor: float = 0.0
    """GPUs that an actor reserves: 1, or a fraction if several actors share one."""
    partition_size: int = 1000
    """Number of images per output file (1 or more). An archive always gets an output file of its
    own. In messages of a Ray run, a partition is such a file."""
    image_column: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="NAME",
            help_behavior_hint=f"(default: the first that exists of {', '.join(IMAGE_COLUMNS)})",
        ),
    ] = None
    """Column of Parquet inputs with the images: bytes, paths, URLs, or records with bytes and
    path."""
    keep_columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Columns of Parquet inputs to copy into the output."""
    skip_rows_of: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OUTPUT ...")] = ()
    """Skip images that have a caption in these outputs of earlier runs."""
    min_side: int = 0
    """Do not caption images whose shorter side has fewer pixels than this."""
    skip_duplicates: bool = False
    """Caption only one of several images with the same content."""

    def __post_init__(self) -> None:
        check_minimum(self, min_actors=1, partition_size=1, min_side=0)
        check_ranges(self, "(0, inf)", "cpus_per_actor")
        check_ranges(self, "[0, inf)", "gpus_per_actor")
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ConfigError(
                f"max_actors is {self.max_actors}; it must be at least min_actors, which is "
                f"{self.min_actors}."
            )

    @property
    def threads(self) -> int:
        """Threads of an actor's model."""
        return max(1, math.floor(self.cpus_per_actor))

    def row_settings(self) -> dict[str, Any]:
        """Return the settings that decide which rows the output has."""
        names = ("partition_size", "image_column", "keep_columns", "min_side", "skip_duplicates")
        settings = {name: getattr(self, name) for name in names}
        return settings | {"skip_rows_of": [*map(absolute_name, self.skip_rows_of)]}
