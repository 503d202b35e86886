"""Choice of the library and the precision that run a model, without heavy imports."""

from dataclasses import dataclass
from typing import Literal, get_args

from captioning.errors import ConfigError

BackendName = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class BackendConfig:
    """Which library runs a model, and how precisely it computes."""

    backend: BackendName = "auto"
    """Library that runs the encoder: torch, openvino (CPU only), or auto (openvino on a CPU if it
    is installed and supports the encoder, else torch)."""
    precision: Precision = "auto"
    """Precision: float32, bfloat16, int8, or auto (bfloat16 with openvino on a CPU with bfloat16
    instructions, else float32; never int8). With float32, captions do not depend on the
    backend."""

    def __post_init__(self) -> None:
        for name, kind in (("backend", BackendName), ("precision", Precision)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ConfigError(f"{name} is {value!r}; use one of {', '.join(get_args(kind))}.")


PLAIN = BackendConfig(backend="torch", precision="float32")
"""Runs a model as it is, also while its weights change."""


@dataclass(frozen=True)
class ResolvedBackend:
    """The backend that runs a model, after ``auto`` is decided."""

    backend: Literal["torch", "openvino"]
    precision: Literal["float32", "bfloat16", "int8"]

    def __str__(self) -> str:
        return f"{self.backend} ({self.precision})"

    @property
    def rounding(self) -> str:
        """What the captions depend on: backends agree in float32, but not in lower precision."""
        return self.precision if self.precision == "float32" else str(self)
