"""Going on with a run that was cut short."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captioning.captioner.sidecars import sidecar_paths
from captioning.errors import OutputError, SettingsError

SIDECARS = {"txt": ".txt", "caption": ".caption"}


@dataclass(frozen=True)
class Finished:
    """What an earlier run has left.

    Attributes:
        sources: The pictures that have a row or a text file.
        failed: How many of them are rows that say why there is no caption.
    """

    sources: frozenset[str]
    failed: int = 0


NOTHING = Finished(frozenset())


def finished(form: str, output: Path | None, sources: Sequence[str]) -> Finished:
    """Return what need not be captioned again.

    Of JSON lines, a last line that was cut off by the end of the run is removed from the file.

    Args:
        form: ``jsonl``, ``txt`` or ``caption``.
        output: Where the results go, as for :func:`captioning.captioner.open_writer`.
        sources: All pictures.

    Raises:
        SettingsError: The format cannot be gone on with.
        OutputError: The file holds something else than captions.
    """
    if form in SIDECARS:
        paths = sidecar_paths(sources, output, SIDECARS[form])
        return Finished(frozenset(source for source, path in paths.items() if path.exists()))
    if form != "jsonl" or output is None:
        raise SettingsError(
            "--resume goes on with the formats jsonl (with -o), txt and caption; "
            f"{form}{'' if output else ' on standard output'} is written anew each time."
        )
    if not output.exists():
        return Finished(frozenset())
    try:
        return _read_rows(output)
    except OSError as error:
        raise OutputError(f"{output} cannot be read: {error}. Give another -o.") from error


def _read_rows(output: Path) -> Finished:
    done: set[str] = set()
    failed = whole = 0
    with output.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break  # the run was killed while it wrote this line
            try:
                row = json.loads(line)
                done.add(row["image"])
            except (ValueError, KeyError, TypeError):
                raise OutputError(
                    f"Line {number} of {output} is no caption of ours, so it is left as it is. "
                    "Give another -o."
                ) from None
            failed += "error" in row
            whole += len(line)
    if whole < output.stat().st_size:
        os.truncate(output, whole)
    return Finished(frozenset(done), failed)
