"""The processes of a job that torchrun or ``accelerate launch`` started, and what they exchange.

Without such a job there is one process, and the functions return what they are given. In a job,
each process must call the same functions in the same order. Process 0 is the main process: it
alone writes the output and reports messages.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import TYPE_CHECKING, NoReturn, TypeVar

from captioning.errors import CaptioningError, ConfigError, TrainingError, TrainingStoppedError
from captioning.messages import format_count

if TYPE_CHECKING:  # slow to import
    from torch import Tensor

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: repeat the command later
"""Exit code of a run that was asked to stop and has saved its state."""
_TIMEOUT = timedelta(days=7)  # processes wait while one encodes images or chooses the search
_SECONDS_FOR_OTHERS = 60.0  # a process may be in the middle of hours of work
_UNUSED = {
    "ACCELERATE_MIXED_PRECISION": "mixed_precision",
    "ACCELERATE_DYNAMO_BACKEND": "dynamo_backend",
    "ACCELERATE_USE_FSDP": "use_fsdp",
    "ACCELERATE_USE_DEEPSPEED": "use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "use_megatron_lm",
}
"""Environment variables of ``accelerate launch``, and the options that set them."""
SECONDS_FOR_MESSAGE = 2.0
"""Time for the main process to print an error, before the end of another ends all."""
Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class _Job:
    """Number of this process, and of all processes."""

    index: int = 0
    count: int = 1


class _KnownError(Exception):
    """Cause of an error that the other processes have too, or cannot receive."""


_job = _Job()


def connect_processes(device: str = "auto") -> None:
    """Join the processes of the job, if torchrun or ``accelerate launch`` started this process.

    Args:
        device: Device of the run: ``auto``, ``cpu`` or ``cuda``. With ``cuda``, each process uses
            a GPU of its own.

    Raises:
        ConfigError: accelerate is not installed, or there are too few GPUs.
    """
    global _job  # noqa: PLW0603  (as the process group of torch, which it describes)
    count = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if count == 1 or _job.count > 1:
        return
    import torch

    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ConfigError(
            f"the job has {count} processes, which needs the package accelerate. Install it: "
            'pip install "captioning[train]"'
        ) from error
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"device is {device!r}, and the job has {count} processes, each with a device of its "
            "own. Use auto, cpu or cuda."
        )
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if not on_cpu and local > gpus:
        raise ConfigError(
            f"the job has {format_count(local, 'process')} on this machine, and it has "
            f"{format_count(gpus, 'GPU')}. Start one process per GPU, or use the device cpu."
        )
    state = PartialState(cpu=on_cpu, timeout=_TIMEOUT)
    _job = _Job(state.process_index, state.num_processes)


def refuse_unused_options() -> None:
    """Refuse options of ``accelerate launch`` that would have no effect on a command.

    Raises:
        ConfigError: The process was started with one.
    """
    for variable, option in _UNUSED.items():
        value = os.environ.get(variable, "no")
        if value.lower() not in ("", "no", "false"):
            raise ConfigError(
                f"accelerate launch was started with --{option} ({value}), which has no effect "
                "here. Remove it from the command, or from the file that `accelerate config` "
                "wrote. To train in 16 bits, use captioning train --training.precision."
            )


def launched_index() -> int:
    """Return the number of this process in its job, from 0, also before it is connected."""
    return int(os.environ.get("RANK", "0")) if "LOCAL_RANK" in os.environ else 0


def process_index() -> int:
    """Return the number of this process, from 0."""
    return _job.index


def process_count() -> int:
    """Return the number of processes of the job."""
    return _job.count


def is_main_process() -> bool:
    """Return whether this process writes the output and reports messages."""
    return _job.index == 0


def add_over_processes(values: "Tensor") -> "Tensor":
    """Replace a tensor by the sum of the tensors of all processes, and return it.

    Raises:
        TrainingError: Another process has ended.
    """
    if _job.count > 1:
        import torch

        with _explain_lost_process():
            torch.distributed.all_reduce(values)  # accelerate would copy the tensor first
    return values


def gather_objects(value: Item) -> list[Item]:
    """Return the value of each process, in the order of the processes.

    Raises:
        CaptioningError: A process has an error, or has ended.
    """
    return [value] if _job.count == 1 else _exchange(None, value)


def broadcast_object(value: Item) -> Item:
    """Return the value of the main process. Tensors arrive on the CPU.

    Raises:
        TrainingError: Another process has ended.
    """
    if _job.count == 1:
        return value
    import torch
    from accelerate.utils import broadcast_object_list

    content = BytesIO()
    if is_main_process():
        torch.save(value, content)
    with _explain_lost_process():
        (sent,) = broadcast_object_list([content.getvalue()])
    if is_main_process():
        return value
    received: Item = torch.load(BytesIO(sent), map_location="cpu", weights_only=False)
    return received


def wait_for_processes() -> None:
    """Wait until all processes are here.

    Raises:
        CaptioningError: A process has an error, or has ended.
    """
    gather_objects(None)


def share_batches(items: Sequence[Item], size: int) -> list[Item]:
    """Return every n-th batch of ``size`` items, for n processes; each batch has one process.

    The batches are those of a single process, so that results are the same to the last bit.
    """
    starts = range(_job.index * size, len(items), _job.count * size)
    return [item for start in starts for item in items[start : start + size]]


def merge_shares(results: Mapping[Item, Value], order: Iterable[Item]) -> dict[Item, Value]:
    """Return the results of all processes, in the order of ``order``; items may have none.

    Raises:
        CaptioningError: A process has an error, or has ended.
    """
    merged = {key: value for part in gather_objects(results) for key, value in part.items()}
    return {item: merged[item] for item in order if item in merged}


@contextmanager
def fail_together() -> Iterator[None]:
    """End all processes if one of them raises a CaptioningError within the context.

    The main process raises it. The others exit without a message, because it would be the same.
    """
    try:
        yield
    except CaptioningError as error:
        if _job.count > 1 and not isinstance(error.__cause__, _KnownError):
            _tell_others(error)
        raise
    wait_for_processes()


def raise_together(error: CaptioningError) -> NoReturn:
    """Raise an error that all processes have. Only the main process reports it; the others exit."""
    if is_main_process():
        raise error
    time.sleep(SECONDS_FOR_MESSAGE)  # torchrun ends all processes after the first one
    raise SystemExit(STOPPED if isinstance(error, TrainingStoppedError) else 1)


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the main process run the block first, and the others after it."""
    if not is_main_process():
        wait_for_processes()
    yield
    if is_main_process():
        wait_for_processes()


def _tell_others(error: CaptioningError) -> None:
    """Raise the error in all processes. If they do not listen for a minute, end this process."""

    def leave() -> None:
        print(f"captioning (process {_job.index + 1}): {error}", file=sys.stderr)  # noqa: T201
        os._exit(1)  # torchrun then ends the others

    timer = threading.Timer(_SECONDS_FOR_OTHERS, leave)
    timer.daemon = True
    timer.start()
    try:
        _exchange(error, None)
    finally:
        timer.cancel()


def _exchange(error: CaptioningError | None, value: Item) -> list[Item]:
    """Return the value of each process, or raise the first error."""
    from accelerate.utils import gather_object

    kind = None if error is None else type(error)
    with _explain_lost_process():
        found = gather_object([(kind, str(error), value)])
    for index, (kind, text, _) in enumerate(found):
        if kind is not None:
            _raise_error(kind, text, index)
    return [value for _, _, value in found]


def _raise_error(kind: type[CaptioningError], text: str, index: int) -> NoReturn:
    where = f"process {index + 1} of {_job.count}: " if index else ""
    known = kind(f"{where}{text}")
    known.__cause__ = _KnownError(text)
    raise_together(known)


@contextmanager
def _explain_lost_process() -> Iterator[None]:
    """Raise TrainingError for an error of the connection."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[.*?\] |\. This .*", "", str(error).splitlines()[0])[:200]
        raise TrainingError(
            f"lost the connection to another process of the job ({reason}). Its message, or the "
            "report of torchrun, says why it ended. A process that the system killed (SIGKILL) may "
            "have needed too much memory. Run the same command again to continue."
        ) from _KnownError(error)
