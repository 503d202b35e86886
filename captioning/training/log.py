"""The log of a run: a CSV table, and TensorBoard event files."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from captioning.files import write_atomic
from captioning.training.samples import Sample
from captioning.training.trackers import Trackers

_COLUMNS = (
    "step", "epoch", "split", "loss", "perplexity", "learning_rate", "gradient_norm",
    "captions_per_second", "data_wait", "reward", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4",
    "ROUGE-L", "CIDEr", "distinct_captions", "words_used", "mean_length", "seconds",
)  # fmt: skip

_NUMBERS = ("step", "epoch")
STEPS = "step"
"""Value of ``split`` in the rows of step metrics."""


class NoLog:
    """The log of a process that writes none."""

    def write(self, step: int, split: str, values: Mapping[str, float | int]) -> None:
        """Drop a row."""

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Drop samples."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Close nothing."""


class TrainingLog(NoLog):
    """The table ``log.csv`` and, if the ``tensorboard`` package is installed, its event files.

    A ``log.csv`` that another program has rewritten is renamed to ``log.old.csv``.

    Args:
        directory: Directory of the run.
        epoch: Number of epochs done; -1 for a new run. Rows of later epochs are removed: an
            interrupted run wrote them after its last saved state, and they are written again.
        step: Number of steps done; -1 for a new run.
        trackers: Receive the values too.
    """

    def __init__(
        self,
        directory: Path,
        *,
        epoch: int = -1,
        step: int = -1,
        trackers: Trackers | None = None,
    ) -> None:
        self.path = directory / "log.csv"
        kept = io.StringIO(newline="")
        table = csv.DictWriter(kept, _COLUMNS)
        table.writeheader()
        table.writerows(row for row in self._read_rows() if _is_done(row, epoch, step))
        write_atomic(self.path, kept.getvalue())
        self._file = self.path.open("a", newline="", encoding="utf-8")
        self._table = csv.DictWriter(self._file, _COLUMNS)
        self._board = _open_tensorboard(directory / "tensorboard", step)
        self._trackers = trackers

    def _read_rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            table = csv.DictReader(file)
            # The last line of an interrupted run may be incomplete.
            rows = [row for row in table if None not in row and None not in row.values()]
            valid = {*_NUMBERS, "split"} <= set(table.fieldnames or ()) <= set(_COLUMNS)
        if valid and all(row[name].isdecimal() for row in rows for name in _NUMBERS):
            return rows
        self.path.replace(self.path.with_name("log.old.csv"))
        return []

    def write(self, step: int, split: str, values: Mapping[str, float | int]) -> None:
        """Append a row to the table, and a point to each TensorBoard curve."""
        row = {name: f"{value:.6g}" for name, value in values.items()}
        self._table.writerow({"step": step, "split": split, **row})
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{split}/{name}", value, step)
        if self._trackers is not None:
            self._trackers.write(step, split, values)

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Show images with their captions in TensorBoard."""
        if self._board is None:
            return
        for number, sample in enumerate(samples, 1):
            text = f"{sample.caption}\n\n*{sample.reference}*\n\n{sample.name}"
            self._board.add_text(f"samples/{number}", text, step)
            if sample.thumbnail:
                self._board.add_image(f"samples/{number}", sample.draw(), step, dataformats="HWC")

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._trackers is not None:
            self._trackers.close()


def _is_done(row: Mapping[str, str], epoch: int, step: int) -> bool:
    if row["split"] == STEPS:
        return int(row["step"]) <= step
    return int(row["epoch"]) <= epoch


def _open_tensorboard(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # the extra `train` is not installed
    return SummaryWriter(str(directory), purge_step=step + 1)
