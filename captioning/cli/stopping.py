"""Ctrl-C that lets a batch end."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

_HANG_UP = [signal.SIGHUP] if os.name == "posix" else []
_ENDS = [signal.SIGINT, signal.SIGTERM, *_HANG_UP]


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
        # Not print: the signal may have come in the middle of one.
        with suppress(OSError):
            os.write(2, b"captioning: ending the batch; once more to stop at once\n")

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            for each in _ENDS:
                if each in _HANG_UP and signal.getsignal(each) is signal.SIG_IGN:
                    continue  # nohup was asked for
                self._before[each] = signal.signal(each, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
