"""Limits of the HTTP server, without heavy imports."""

from dataclasses import dataclass

from captioning.errors import ConfigError
from captioning.messages import check_minimum

MAX_SEARCH_ROWS = 200
"""Largest number of hypotheses per image that a request may ask for."""
MAX_WORDS = 100
"""Largest ``max_length`` that a request may ask for."""


@dataclass(frozen=True)
class ServerLimits:
    """Limits that keep one client from taking the memory or the time of all others."""

    max_body: float = 32.0
    """Largest body of a request, in MB (above 0, at most 1,000)."""
    max_images: int = 64
    """Largest number of images in a request (1 or more)."""
    max_waiting: int = 256
    """Largest number of requests that are not answered yet (1 or more); a further one gets status
    503."""
    max_seconds: float = 30.0
    """Time limit of a request, in seconds (above 0, at most 3,600)."""
    batch_size: int = 16
    """Largest number of images that the model captions at once (1 or more)."""
    workers: int = 2
    """Number of processes that decode images (0: decode in the main process, without a limit of
    time or memory)."""

    def __post_init__(self) -> None:
        check_minimum(self, max_images=1, max_waiting=1, batch_size=1, workers=0)
        for name, largest in (("max_body", 1000), ("max_seconds", 3600)):
            if not 0 < getattr(self, name) <= largest:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be above 0 and at most {largest:,}."
                )

    @property
    def body_bytes(self) -> int:
        """Largest body of a request in bytes."""
        return int(self.max_body * 1_000_000)

    @property
    def total_bytes(self) -> int:
        """Largest sum of the bodies that are in memory at the same time."""
        return max(512_000_000, self.body_bytes)
