"""Stopping a run with Ctrl-C after the current batch or partition."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

_HANGUP = [signal.SIGHUP] if os.name == "posix" else []
_SIGNALS = [signal.SIGINT, signal.SIGTERM, *_HANGUP]


class Stopping:
    """Context in which the first Ctrl-C (or ``kill``) is noted and the second one interrupts.

    Args:
        work: What the run does before it stops.

    Attributes:
        signal: Number of the signal that arrived; 0 if there was none.
    """

    def __init__(self, work: str = "finishing the current batch") -> None:
        self.signal = 0
        advice = "press Ctrl-C again to stop at once"
        self._message = f"captioning: {work}; {advice}\n".encode()
        self._stderr = 2
        self._previous: dict[signal.Signals, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        with suppress(OSError):  # print is not safe here: the signal may interrupt another print
            os.write(self._stderr, self._message)

    def __enter__(self) -> "Stopping":
        with suppress(OSError):  # standard error is closed
            self._stderr = os.dup(2)  # which is redirected while Ray starts
        if threading.current_thread() is threading.main_thread():
            for each in _SIGNALS:
                if each in _HANGUP and signal.getsignal(each) is signal.SIG_IGN:
                    continue  # the run was started with nohup
                self._previous[each] = signal.signal(each, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._stderr != 2:
            os.close(self._stderr)
            self._stderr = 2
