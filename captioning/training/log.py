"""What a run leaves to look at: a table that a spreadsheet opens, and TensorBoard."""

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

_COLUMNS = (
    "step", "epoch", "split", "loss", "perplexity", "learning_rate", "gradient_norm",
    "captions_per_second", "reward", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr",
    "seconds",
)  # fmt: skip


class TrainingLog:
    """A CSV file and, where the ``tensorboard`` package is installed, event files.

    A ``log.csv`` that a spreadsheet saved in its own way becomes ``log.old.csv``.

    Args:
        directory: The run's directory.
        step: Batches that the run has done; rows of later ones, which a killed run left behind
            after it was last saved, are removed because they will be written again.
    """

    def __init__(self, directory: Path, *, step: int = 0) -> None:
        self.path = directory / "log.csv"
        rows = [row for row in self._read() if int(row["step"]) <= step]
        self._file = self.path.open("w", newline="", encoding="utf-8")
        self._table = csv.DictWriter(self._file, _COLUMNS)
        self._table.writeheader()
        self._table.writerows(rows)
        self._file.flush()
        self._board = _tensorboard(directory / "tensorboard", step)

    def _read(self) -> list[dict[str, str]]:
        """Return the whole lines; a table that something else has saved is put aside."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            table = csv.DictReader(file)
            # A killed run may have left half a line.
            rows = [row for row in table if None not in row and None not in row.values()]
            ours = {"step"} <= set(table.fieldnames or ()) <= set(_COLUMNS)
        if ours and all(row["step"].isdecimal() for row in rows):
            return rows
        self.path.replace(self.path.with_name("log.old.csv"))
        return []

    def write(self, step: int, split: str, values: Mapping[str, float | int]) -> None:
        """Add one row, and one point to each curve."""
        shown = {name: f"{value:.6g}" for name, value in values.items()}
        self._table.writerow({"step": step, "split": split, **shown})
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{split}/{name}", value, step)

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _tensorboard(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # the extra `train` was not installed; the table has the same numbers
    return SummaryWriter(str(directory), purge_step=step + 1)
