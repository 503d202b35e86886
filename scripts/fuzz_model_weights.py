"""Changes of the weights of a model directory, for fuzz_models.py: header and values."""

import json
import math
import os
import random
import struct
from copy import deepcopy
from pathlib import Path
from typing import Any

from fuzz_model_files import (
    ABSURD,
    ATTENTION,
    NUMBERS,
    TENSORS,
    WEIGHTS,
    change,
    edit,
    iterate_slots,
    rewrite,
)


def split_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header of a safetensors file and the bytes after it."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join_file(path: Path, header: Any, data: bytes) -> None:
    text = json.dumps(header).encode()
    rewrite(path, struct.pack("<Q", len(text)) + text + data)


@change
def header_length(rng: random.Random, directory: Path) -> None:
    path = directory / rng.choice(TENSORS)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    lengths = [0, 1, length - 1, length + 1, len(content), 2**31, 2**40, 2**63, 2**64 - 1]
    rewrite(path, struct.pack("<Q", rng.choice(lengths)) + content[8:])


@change
def header_values(rng: random.Random, directory: Path) -> None:
    path = directory / rng.choice(TENSORS)
    header, data = split_file(path)
    for _ in range(rng.choice((1, 1, 2, 5))):
        where, key = rng.choice(list(iterate_slots(header)))
        near = where[key] + rng.choice((-4, -1, 1, 4)) if isinstance(where[key], int) else 1
        dtypes = ("F64", "F16", "BF16", "I32", "I64", "BOOL", "U8", "F8_E4M3", "f32", "C64")
        where[key] = rng.choice(
            (near, rng.choice(NUMBERS), deepcopy(rng.choice(ABSURD)), rng.choice(dtypes))
        )
    join_file(path, header, data)


@change
def header_swaps(rng: random.Random, directory: Path) -> None:
    """Reverse, swap, remove, add or retype entries of the header."""
    path = directory / rng.choice(TENSORS)
    header, data = split_file(path)
    names = [name for name in header if name != "__metadata__"]
    one, two = header[rng.choice(names)], header[rng.choice(names)]
    kind = rng.randrange(7)
    if kind == 0:
        one["shape"].reverse()
    elif kind == 1:
        key = rng.choice(("shape", "dtype", "data_offsets"))
        one[key], two[key] = two[key], one[key]
    elif kind == 2:
        one["shape"] = [2**40, *one["shape"]]
    elif kind == 3:  # as many bytes, another type
        size = {"F32": 4, "I64": 8, "F16": 2, "I32": 4, "I8": 1}[one["dtype"]]
        other, width = rng.choice((("I32", 4), ("F64", 8), ("BOOL", 1), ("U8", 1), ("F16", 2)))
        one["dtype"], one["shape"] = other, [math.prod(one["shape"]) * size // width]
    elif kind == 4:
        del header[rng.choice(names)]
    elif kind == 5:
        header["more"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
        data += b"\x00" * 4
    else:
        one["shape"], one["data_offsets"] = [0, 2**62], [one["data_offsets"][0]] * 2
    join_file(path, header, data)


@change
def consistent_claims(rng: random.Random, directory: Path) -> None:
    """Another attention_size in config and header, and a file of the matching size."""
    size = rng.choice((1, 7, 500, 5000, 10**6, 10**9))
    header, _ = split_file(directory / WEIGHTS)
    end = 0
    for name, entry in header.items():
        if name != "__metadata__":
            if name.startswith("decoder."):
                entry["shape"] = [
                    size if number == ATTENTION else number for number in entry["shape"]
                ]
            start = end
            end += math.prod(entry["shape"]) * {"F32": 4, "F16": 2, "I64": 8}[entry["dtype"]]
            entry["data_offsets"] = [start, end]
    join_file(directory / WEIGHTS, header, b"")
    path = directory / WEIGHTS
    os.truncate(path, min(path.stat().st_size + end, 10**12))  # a sparse file

    def work(content: Any) -> None:
        content["decoder"]["attention_size"] = size

    edit(directory / "config.json", work)


@change
def weight_values(rng: random.Random, directory: Path) -> None:
    path = directory / rng.choice(TENSORS)
    header, data = split_file(path)
    name = rng.choice([name for name in header if name != "__metadata__"])
    start, end = header[name]["data_offsets"]
    content = bytearray(data)
    if rng.random() < 0.5:
        content[start:end] = rng.randbytes(end - start)
    else:
        bad = rng.choice((math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0))
        content[start : start + 4] = struct.pack("<f", bad)
    join_file(path, header, bytes(content))
