"""Changes of the files of a model directory, for fuzz_models.py: bytes and JSON values."""

import json
import math
import os
import random
import socket
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import timm
import torchvision

from captioning.nn.decoder_config import CHOICES

WEIGHTS = "model.safetensors"
TEXTS = ("config.json", "vocabulary.json", "preprocessor_config.json", "generation_config.json")
RERANKER = "rerank.safetensors"
TENSORS = (WEIGHTS, RERANKER)
FILES = (*TEXTS, *TENSORS)
ATTENTION = 5
"""attention_size of the undamaged models; no other size of their decoders equals it."""
NAMES = [f"timm:{name}" for name in timm.list_models()] + [
    f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models)
]
HOSTILE = [
    *(
        "timm:local-dir:/etc",
        "timm:hf-hub:timm/resnet18.a1_in1k",
        "timm:hf_hub:a/b",
        "timm:",
        "a:b",
    ),
    *("timm:test_resnet./../resnet18", "timm:../../etc/passwd", "timm:test_resnet\u0000", "timm:"),
    *("timm:test_resnet.nosuch", "torchvision:raft_large", "torchvision:vit_b_16", "timm:a?b#c"),
    *("timm:" + "a" * 100_000, "torchvision:../resnet18", "TIMM:test_resnet", "timm:test_resnet\n"),
]
NUMBERS = [
    *(-1, 0, 1, 2, 3, 7, 255, 65536, 10**6, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30, 10**400),
    *(-(2**63), 0.5, -0.5, 1.5, 1e-300, 1e30, 1e308, math.nan, math.inf, -math.inf),
]
ABSURD: list[Any] = [
    *NUMBERS, *HOSTILE, None, True, False, "", "3", "lstm", "\ud800", "\u202e", "a\nb", [], {},
    [[]], {"": {}}, [1, 2, 3], [math.nan] * 3, [1e400] * 3, ["a"] * 1000, list(range(5000)),
    "x" * 10**5,
]  # fmt: skip
Change = Callable[[random.Random, Path], None]
CHANGES: dict[str, Change] = {}


def change(function: Change) -> Change:
    """Register a change of a directory under its name."""
    CHANGES[function.__name__] = function
    return function


# --- files as bytes ---------------------------------------------------------------------------


def rewrite(path: Path, content: bytes) -> None:
    """Replace the link to an undamaged file."""
    path.unlink()
    path.write_bytes(content)


@change
def flipped_bytes(rng: random.Random, directory: Path) -> None:
    path = directory / rng.choice(FILES)
    content = bytearray(path.read_bytes())
    end = len(content) if rng.random() < 0.5 else min(len(content), 20_000)  # mostly the header
    for _ in range(rng.choice((1, 1, 2, 5, 50))):
        content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    rewrite(path, bytes(content))


@change
def truncated_or_extended(rng: random.Random, directory: Path) -> None:
    path = directory / rng.choice(FILES)
    content = path.read_bytes()
    more = rng.randbytes(rng.choice((1, 100, 10_000)))
    rewrite(path, rng.choice((b"", content[: rng.randrange(len(content))], content + more)))


@change
def other_content(rng: random.Random, directory: Path) -> None:
    """Content of another file, noise, deep JSON, or a sparse file."""
    path = directory / rng.choice(FILES)
    other = (directory / rng.choice(FILES)).read_bytes()
    deep = rng.choice((60, 70, 900, 100_000))
    texts = [other, rng.randbytes(1000), b"[" * deep, b"[" * deep + b"]" * deep, b"\x00" * 100]
    texts += [
        b'{"a":' * deep + b"1" + b"}" * deep,
        b"[]",
        b"{}",
        b"null",
        b"1e999",
        b"\xef\xbb\xbf{}",
    ]
    rewrite(path, rng.choice(texts))
    if rng.random() < 0.2:
        os.truncate(path, rng.choice((10**6, 16 * 2**20, 10**9, 10**12)))


@change
def special_file(rng: random.Random, directory: Path) -> None:
    path = directory / rng.choice(FILES)
    path.unlink()
    kind = rng.randrange(7)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    elif kind < 6:
        path.symlink_to(("/dev/zero", "/dev/tty", path.name)[kind - 3])
    else:
        path.symlink_to(rng.choice(("/nowhere", "/proc/self/mem", "/proc/kmsg", "/dev/random")))


@change
def lots_of_json(rng: random.Random, directory: Path) -> None:
    """JSON just below the size limit that needs as much memory as possible."""
    path = directory / rng.choice(TEXTS)
    one = rng.choice((b"[]", b"{}", b'{"a":0}', b"1", b'""'))
    count = 16 * 2**20 // (len(one) + 1) - 20
    rewrite(path, b'{"words": [' + b",".join([one] * count) + b"]}")


# --- JSON -------------------------------------------------------------------------------------


def iterate_slots(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of JSON data with every key or index of it."""
    keys = content if isinstance(content, dict) else range(len(content))
    for key in list(keys):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from iterate_slots(content[key])


def edit(path: Path, work: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content = work(content) or content
    rewrite(path, json.dumps(content).encode())


@change
def absurd_values(rng: random.Random, directory: Path) -> None:
    def work(content: Any) -> None:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            where, key = rng.choice(list(iterate_slots(content)))
            where[key] = deepcopy(rng.choice(ABSURD))

    edit(directory / rng.choice(TEXTS), work)


@change
def absurd_settings(rng: random.Random, directory: Path) -> None:
    """Replace numbers by numbers, which pass the most checks."""

    def work(content: Any) -> None:
        numbers = [
            (where, key)
            for where, key in iterate_slots(content)
            if isinstance(where[key], int | float)
        ]
        for where, key in rng.sample(numbers, min(len(numbers), rng.choice((1, 1, 2)))):
            where[key] = rng.choice([*NUMBERS, True, False])

    edit(directory / rng.choice([name for name in TEXTS if name != "vocabulary.json"]), work)


@change
def other_settings(rng: random.Random, directory: Path) -> None:
    """Valid settings of another model."""

    def work(content: Any) -> None:
        decoder = content["decoder"]
        choices = {
            "cell": ["rnn", "relu_rnn", "gru", "lstm"],
            **{name: list(names) for name, names in CHOICES.items()},
            "layers": [1, 2, 3, 100],
            "embedding_layers": [1, 2],
        }
        for key in rng.sample(list(decoder), rng.choice((1, 1, 2, 3))):
            value = decoder[key]
            flipped = not value if isinstance(value, bool) else rng.choice((1, 4, 8, 512, 10**8))
            decoder[key] = rng.choice(choices[key]) if key in choices else flipped

    edit(directory / "config.json", work)


@change
def keys_dropped_or_added(rng: random.Random, directory: Path) -> None:
    path = directory / rng.choice(TEXTS)
    content = json.loads(path.read_text(encoding="utf-8"))
    where, key = rng.choice(list(iterate_slots(content)))
    if rng.random() < 0.5:
        del where[key]
    elif isinstance(where, dict):
        where[rng.choice(("x", "", "__class__", str(key).upper(), "a" * 10_000))] = where[key]
    else:
        where.insert(rng.randrange(len(where) + 1), where[key])
    text = json.dumps(content)
    rewrite(path, (text[:-1] + ',"words":[],"format":1}' if rng.random() < 0.1 else text).encode())


@change
def words(rng: random.Random, directory: Path) -> None:
    bad = [
        *ABSURD,
        "\x1b[2J",
        "\x00",
        "../../../etc/passwd",
        "<pad>",
        "a",
        "\u2028",
        "\udcff",
        "\x85",
    ]

    def work(content: Any) -> None:
        for _ in range(rng.choice((1, 1, 3))):
            content["words"][rng.randrange(len(content["words"]))] = deepcopy(rng.choice(bad))

    edit(directory / "vocabulary.json", work)


@change
def encoder_names(rng: random.Random, directory: Path) -> None:
    name = rng.choice(NAMES if rng.random() < 0.3 else HOSTILE)

    def work(content: Any) -> None:
        content["encoder"]["name"] = name

    edit(directory / "config.json", work)
