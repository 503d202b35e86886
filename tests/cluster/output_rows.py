"""Rows of an output folder, read by other programs than ours."""

import json
import re

import pandas as pd


def sort_rows(rows):
    """Return rows in natural order of their names: folders are listed in no particular order."""
    return sorted(
        rows, key=lambda row: [part.zfill(9) for part in re.split(r"(\d+)", row["file_name"])]
    )


def read_folder(folder):
    """Return the rows of all partitions, in order."""
    paths = sorted(folder.glob("part-*"))
    if paths and paths[0].suffix == ".jsonl":
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    tables = [pd.read_parquet(path) for path in paths]
    rows = pd.concat(tables, ignore_index=True).astype(object)
    return rows.where(rows.notna(), None).to_dict("records")
