"""Load thousands of damaged model directories, and check that each is loaded or refused.

The script writes tiny models. Each try changes bytes, JSON values, the header of the weights, or
whole files, which may become pipes, devices or links. The directory is then loaded with limits on
time and memory. Either it loads, and the model has finite weights and predicts a next word, or it
is refused with a CheckpointError. Everything else is a problem, including network access, a
pickled object, and a refusal for lack of memory.

    python scripts/fuzz_models.py --tries 10000 --seed 0
    python scripts/fuzz_models.py --seed 0 --only 4711     # repeat one try, with its traceback

The last line is JSON: counts by outcome and kind, the slowest try and the growth of peak memory.
"""

import argparse
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from captioning.checkpoint import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from captioning.decoding import BeamSearch
from captioning.errors import CheckpointError
from captioning.images.preprocessing import Preprocessing
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import CHOICES, DecoderConfig
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.reranking.ngram import NgramReranker
from captioning.text.vocabulary import Vocabulary

WEIGHTS = "model.safetensors"
TEXTS = ("config.json", "vocabulary.json", "preprocessor_config.json", "generation_config.json")
RERANKER = "rerank.safetensors"
TENSORS = (WEIGHTS, RERANKER)
FILES = (*TEXTS, *TENSORS)
ATTENTION = 5
"""attention_size of the undamaged models; no other size of their decoders equals it."""
FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "pickle.find_class", "subprocess.Popen")
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


# --- weights ----------------------------------------------------------------------------------


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


# --- one try ----------------------------------------------------------------------------------


def write_models(folder: Path) -> list[Path]:
    """Write small models with most kinds of tensors."""
    vocabulary = Vocabulary.build([["a", "red", "dog", "runs"]], min_count=1)
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, settings in enumerate(
            ({"core": "attention"}, {"cell": "gru", "layers": 2}, {})
        ):
            # The third has buffers that are not saved, so another branch restores it.
            network = "timm:test_vit_relpos" if number == 2 else "timm:test_resnet"
            size = None if number == 2 else Preprocessing(size=32)
            encoder = Encoder(EncoderConfig(network, None), size)
            options = DecoderConfig(
                embedding_size=4, hidden_size=6, attention_size=ATTENTION, **settings
            )
            model = CaptionModel(
                encoder, Decoder(options, vocabulary_size=8, feature_size=encoder.feature_size)
            ).eval()
            info = ModelInfo(name="Tiny", scores={"BLEU-4": 0.1}, limits=("All.",))
            found.append(folder / f"good{number}")
            search = BeamSearch(width=2, forbidden_words=("a",), rerank_weight=1.5)
            captions = [[["a", "red", "dog"]], [["a", "dog", "runs"], ["red"]]]
            reranker = NgramReranker.fit(torch.randn(2, encoder.feature_size), captions, vocabulary)
            kind = torch.float16 if number == 1 else torch.float32
            whole = Checkpoint(model, vocabulary, search, info, reranker)
            save_checkpoint(whole, found[-1], dtype=kind)
    return found


def tamper(seed: str, good: list[Path], directory: Path) -> str:
    """Write the directory of one try, and return the kind of the change."""
    rng = random.Random(seed)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    model = rng.choices(good, (10, 10, 1))[0]
    for name in FILES:
        (directory / name).symlink_to(model / name)
    rare = {"lots_of_json": 0.02, "encoder_names": 0.5}
    kind = rng.choices(list(CHANGES), [rare.get(name, 1) for name in CHANGES])[0]
    CHANGES[kind](rng, directory)
    return kind


class TooLongError(BaseException):
    """A try exceeded its time limit. ``except Exception`` does not catch it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLongError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_usable(checkpoint: Checkpoint) -> None:
    """Raise an AssertionError if a loaded model cannot be used."""
    model = checkpoint.model
    for name, tensor in model.state_dict().items():
        if tensor.device.type != "cpu" or not torch.isfinite(tensor).all():
            raise AssertionError(f"{name} is not a finite tensor on the CPU")
    size = model.encoder.preprocessing.size
    if size <= 256:
        with torch.inference_mode():
            state = model.start(torch.zeros(1, 3, size, size, dtype=torch.uint8))
            log_probs, _ = model.decoder.step(torch.tensor([checkpoint.vocabulary.bos]), state)
            vector = torch.ones(1, model.encoder.feature_size)
            scores = (
                checkpoint.reranker.prepare(vector)(0, [(4, 5), ()])
                if checkpoint.reranker
                else [0.0]
            )
        if not all(map(math.isfinite, scores)):
            raise AssertionError(f"the reranker gives {scores}")
        if log_probs.shape != (1, len(checkpoint.vocabulary)):
            raise AssertionError(f"log_probs has shape {tuple(log_probs.shape)}")


def attempt(directory: Path, seconds: float, forbidden: list[str]) -> tuple[str, str]:
    """Load one directory and return the outcome with its message."""
    forbidden.clear()
    try:
        with time_limit(seconds):
            check_usable(load_checkpoint(directory))
        outcome, message = "loaded", ""
    except CheckpointError as error:
        outcome, message = "refused", str(error)
        if "not enough memory" in message or "allocate" in message:
            outcome = "problem"
        elif str(directory) not in message:
            outcome, message = "problem", f"the message does not name the file: {message}"
        elif len(message) > 2000:
            outcome, message = (
                "problem",
                f"the message has {len(message)} characters: {message[:100]}",
            )
    except (Exception, TooLongError):
        outcome, message = "problem", traceback.format_exc()
    if forbidden:
        outcome, message = "problem", f"forbidden events: {forbidden}"
    return outcome, message


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def limit_memory(gibibytes: float) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(gibibytes * 2**30), resource.RLIM_INFINITY))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run one try and print its outcome")
    parser.add_argument("--seconds", type=float, default=60, help="time limit of one try")
    parser.add_argument(
        "--memory", type=float, default=1, help="GiB of memory beyond the current use"
    )
    settings = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    forbidden: list[str] = []
    sys.addaudithook(lambda event, _: forbidden.append(event) if event in FORBIDDEN else None)
    outcomes: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    slowest, began = (0.0, -1), time.perf_counter()
    tries = range(settings.tries) if settings.only is None else [settings.only]
    with tempfile.TemporaryDirectory(prefix="fuzz-models-") as name:
        folder = Path(name)
        good = write_models(folder)
        for directory in good:
            check_usable(load_checkpoint(directory))
        before = peak()
        limit_memory(settings.memory)
        for number in tries:
            kind = tamper(f"{settings.seed}-{number}", good, folder / "try")
            start = time.perf_counter()
            outcome, message = attempt(folder / "try", settings.seconds, forbidden)
            slowest = max(slowest, (time.perf_counter() - start, number))
            outcomes[outcome] += 1
            kinds[kind][outcome] += 1
            if settings.only is not None or (outcome == "problem" and outcomes["problem"] <= 5):
                print(f"try {number}, {kind}: {outcome}\n{message[-3000:]}", file=sys.stderr)
            if number % 1000 == 999:
                print(f"{number + 1} tries: {dict(outcomes)}", file=sys.stderr, flush=True)
    result = {
        "tries": len(tries),
        "seed": settings.seed,
        **{name: outcomes[name] for name in ("loaded", "refused", "problem")},
        "seconds": round(time.perf_counter() - began, 1),
        "slowest": {"try": slowest[1], "seconds": round(slowest[0], 2)},
        "memory_limit_mib": int(settings.memory * 1024),
        "peak_growth_mib": peak() - before,
        "kinds": {kind: dict(counts) for kind, counts in sorted(kinds.items())},
    }
    print(json.dumps(result))
    return 1 if outcomes["problem"] else 0


if __name__ == "__main__":
    sys.exit(main())
