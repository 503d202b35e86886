"""Ctrl-C that lets a batch end."""

import signal
import threading
from types import FrameType
from typing import Any


class Stopping:
    """While this context lasts, the first Ctrl-C (or ``kill``) is noted, the second one interrupts.

    Attributes:
        asked: The signal that came, or 0.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            for each in (signal.SIGINT, signal.SIGTERM):
                self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
