"""Load thousands of model directories that somebody tampered with, and see that each is refused.

A tiny model is written here. Each try changes one thing of it, or a few: bytes, JSON values, the
header of the weights, whole files, also into pipes, devices and links. It is then loaded with a
limit of seconds and of memory. It must load, and its weights be finite and give a next word, or be
refused with a CheckpointError; anything else is a problem, and so is a look at the network, a
pickled object, and a refusal because memory ran out.

    python scripts/fuzz_models.py --tries 10000 --seed 0
    python scripts/fuzz_models.py --seed 0 --only 4711     # one try again, with its traceback

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
PHRASES = "rerank.safetensors"
TENSORS = (WEIGHTS, PHRASES)
FILES = (*TEXTS, *TENSORS)
ATTENTION = 5
"""attention_size of the good models; no other size of their decoders is the same."""
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
    """List a way to tamper with a directory under its name."""
    CHANGES[function.__name__] = function
    return function


# --- files as bytes ---------------------------------------------------------------------------


def rewrite(path: Path, content: bytes) -> None:
    """Write a file in the place of the link to the good one."""
    path.unlink()
    path.write_bytes(content)


@change
def flipped_bytes(chance: random.Random, directory: Path) -> None:
    path = directory / chance.choice(FILES)
    content = bytearray(path.read_bytes())
    end = len(content) if chance.random() < 0.5 else min(len(content), 20_000)  # the header's part
    for _ in range(chance.choice((1, 1, 2, 5, 50))):
        content[chance.randrange(end)] ^= 1 << chance.randrange(8)
    rewrite(path, bytes(content))


@change
def cut_or_longer(chance: random.Random, directory: Path) -> None:
    path = directory / chance.choice(FILES)
    content = path.read_bytes()
    more = chance.randbytes(chance.choice((1, 100, 10_000)))
    rewrite(path, chance.choice((b"", content[: chance.randrange(len(content))], content + more)))


@change
def other_content(chance: random.Random, directory: Path) -> None:
    """Another file's content, noise, deep JSON, or a file of zeros that takes no room on disk."""
    path = directory / chance.choice(FILES)
    other = (directory / chance.choice(FILES)).read_bytes()
    deep = chance.choice((60, 70, 900, 100_000))
    texts = [other, chance.randbytes(1000), b"[" * deep, b"[" * deep + b"]" * deep, b"\x00" * 100]
    texts += [
        b'{"a":' * deep + b"1" + b"}" * deep,
        b"[]",
        b"{}",
        b"null",
        b"1e999",
        b"\xef\xbb\xbf{}",
    ]
    rewrite(path, chance.choice(texts))
    if chance.random() < 0.2:
        os.truncate(path, chance.choice((10**6, 16 * 2**20, 10**9, 10**12)))


@change
def no_regular_file(chance: random.Random, directory: Path) -> None:
    path = directory / chance.choice(FILES)
    path.unlink()
    kind = chance.randrange(7)
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
        path.symlink_to(chance.choice(("/nowhere", "/proc/self/mem", "/proc/kmsg", "/dev/random")))


@change
def lots_of_json(chance: random.Random, directory: Path) -> None:
    """JSON just below the bound, made to need as much memory as text of that size can."""
    path = directory / chance.choice(TEXTS)
    one = chance.choice((b"[]", b"{}", b'{"a":0}', b"1", b'""'))
    count = 16 * 2**20 // (len(one) + 1) - 20
    rewrite(path, b'{"words": [' + b",".join([one] * count) + b"]}")


# --- JSON -------------------------------------------------------------------------------------


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in JSON with each key or index in it."""
    keys = content if isinstance(content, dict) else range(len(content))
    for key in list(keys):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from places(content[key])


def edit(path: Path, work: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content = work(content) or content
    rewrite(path, json.dumps(content).encode())


@change
def absurd_values(chance: random.Random, directory: Path) -> None:
    def work(content: Any) -> None:
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            where, key = chance.choice(list(places(content)))
            where[key] = deepcopy(chance.choice(ABSURD))

    edit(directory / chance.choice(TEXTS), work)


@change
def absurd_settings(chance: random.Random, directory: Path) -> None:
    """Numbers in the place of numbers, which get furthest."""

    def work(content: Any) -> None:
        numbers = [
            (where, key) for where, key in places(content) if isinstance(where[key], int | float)
        ]
        for where, key in chance.sample(numbers, min(len(numbers), chance.choice((1, 1, 2)))):
            where[key] = chance.choice([*NUMBERS, True, False])

    edit(directory / chance.choice([name for name in TEXTS if name != "vocabulary.json"]), work)


@change
def other_choices(chance: random.Random, directory: Path) -> None:
    """Settings that are good ones, for another model."""

    def work(content: Any) -> None:
        decoder = content["decoder"]
        choices = {
            "cell": ["rnn", "relu_rnn", "gru", "lstm"],
            **{name: list(names) for name, names in CHOICES.items()},
            "layers": [1, 2, 3, 100],
            "embedding_layers": [1, 2],
        }
        for key in chance.sample(list(decoder), chance.choice((1, 1, 2, 3))):
            value = decoder[key]
            flipped = not value if isinstance(value, bool) else chance.choice((1, 4, 8, 512, 10**8))
            decoder[key] = chance.choice(choices[key]) if key in choices else flipped

    edit(directory / "config.json", work)


@change
def keys_dropped_or_added(chance: random.Random, directory: Path) -> None:
    path = directory / chance.choice(TEXTS)
    content = json.loads(path.read_text(encoding="utf-8"))
    where, key = chance.choice(list(places(content)))
    if chance.random() < 0.5:
        del where[key]
    elif isinstance(where, dict):
        where[chance.choice(("x", "", "__class__", str(key).upper(), "a" * 10_000))] = where[key]
    else:
        where.insert(chance.randrange(len(where) + 1), where[key])
    text = json.dumps(content)
    rewrite(
        path, (text[:-1] + ',"words":[],"format":1}' if chance.random() < 0.1 else text).encode()
    )


@change
def words(chance: random.Random, directory: Path) -> None:
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
        for _ in range(chance.choice((1, 1, 3))):
            content["words"][chance.randrange(len(content["words"]))] = deepcopy(chance.choice(bad))

    edit(directory / "vocabulary.json", work)


@change
def encoder_names(chance: random.Random, directory: Path) -> None:
    name = chance.choice(NAMES if chance.random() < 0.3 else HOSTILE)

    def work(content: Any) -> None:
        content["encoder"]["name"] = name

    edit(directory / "config.json", work)


# --- weights ----------------------------------------------------------------------------------


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header of the weights and the bytes after it."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(path: Path, header: Any, data: bytes) -> None:
    text = json.dumps(header).encode()
    rewrite(path, struct.pack("<Q", len(text)) + text + data)


@change
def header_length(chance: random.Random, directory: Path) -> None:
    path = directory / chance.choice(TENSORS)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    lengths = [0, 1, length - 1, length + 1, len(content), 2**31, 2**40, 2**63, 2**64 - 1]
    rewrite(path, struct.pack("<Q", chance.choice(lengths)) + content[8:])


@change
def header_values(chance: random.Random, directory: Path) -> None:
    path = directory / chance.choice(TENSORS)
    header, data = parts(path)
    for _ in range(chance.choice((1, 1, 2, 5))):
        where, key = chance.choice(list(places(header)))
        near = where[key] + chance.choice((-4, -1, 1, 4)) if isinstance(where[key], int) else 1
        dtypes = ("F64", "F16", "BF16", "I32", "I64", "BOOL", "U8", "F8_E4M3", "f32", "C64")
        where[key] = chance.choice(
            (near, chance.choice(NUMBERS), deepcopy(chance.choice(ABSURD)), chance.choice(dtypes))
        )
    put(path, header, data)


@change
def header_swaps(chance: random.Random, directory: Path) -> None:
    """Shapes turned, grown, given another type; tensors that change places, go or come twice."""
    path = directory / chance.choice(TENSORS)
    header, data = parts(path)
    names = [name for name in header if name != "__metadata__"]
    one, two = header[chance.choice(names)], header[chance.choice(names)]
    kind = chance.randrange(7)
    if kind == 0:
        one["shape"].reverse()
    elif kind == 1:
        key = chance.choice(("shape", "dtype", "data_offsets"))
        one[key], two[key] = two[key], one[key]
    elif kind == 2:
        one["shape"] = [2**40, *one["shape"]]
    elif kind == 3:  # as many bytes, another type
        size = {"F32": 4, "I64": 8, "F16": 2, "I32": 4, "I8": 1}[one["dtype"]]
        other, width = chance.choice((("I32", 4), ("F64", 8), ("BOOL", 1), ("U8", 1), ("F16", 2)))
        one["dtype"], one["shape"] = other, [math.prod(one["shape"]) * size // width]
    elif kind == 4:
        del header[chance.choice(names)]
    elif kind == 5:
        header["more"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
        data += b"\x00" * 4
    else:
        one["shape"], one["data_offsets"] = [0, 2**62], [one["data_offsets"][0]] * 2
    put(path, header, data)


@change
def claims_that_agree(chance: random.Random, directory: Path) -> None:
    """Another attention_size in the settings and the header, and a file that is as long."""
    size = chance.choice((1, 7, 500, 5000, 10**6, 10**9))
    header, _ = parts(directory / WEIGHTS)
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
    put(directory / WEIGHTS, header, b"")
    path = directory / WEIGHTS
    os.truncate(path, min(path.stat().st_size + end, 10**12))  # zeros that take no room on disk

    def work(content: Any) -> None:
        content["decoder"]["attention_size"] = size

    edit(directory / "config.json", work)


@change
def numbers_of_weights(chance: random.Random, directory: Path) -> None:
    path = directory / chance.choice(TENSORS)
    header, data = parts(path)
    name = chance.choice([name for name in header if name != "__metadata__"])
    start, end = header[name]["data_offsets"]
    content = bytearray(data)
    if chance.random() < 0.5:
        content[start:end] = chance.randbytes(end - start)
    else:
        bad = chance.choice((math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0))
        content[start : start + 4] = struct.pack("<f", bad)
    put(path, header, bytes(content))


# --- one try ----------------------------------------------------------------------------------


def write_models(folder: Path) -> list[Path]:
    """Write models that are small and have most kinds of tensors."""
    vocabulary = Vocabulary.build([["a", "red", "dog", "runs"]], min_count=1)
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, settings in enumerate(
            ({"core": "attention"}, {"cell": "gru", "layers": 2}, {})
        ):
            # The third computes tensors that are not saved; another way leads to it.
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
            said = [[["a", "red", "dog"]], [["a", "dog", "runs"], ["red"]]]
            reranker = NgramReranker.fit(torch.randn(2, encoder.feature_size), said, vocabulary)
            kind = torch.float16 if number == 1 else torch.float32
            whole = Checkpoint(model, vocabulary, search, info, reranker)
            save_checkpoint(whole, found[-1], dtype=kind)
    return found


def tamper(seed: str, good: list[Path], directory: Path) -> str:
    """Make the directory of one try, and return what kind of change it is."""
    chance = random.Random(seed)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    model = chance.choices(good, (10, 10, 1))[0]
    for name in FILES:
        (directory / name).symlink_to(model / name)
    rare = {"lots_of_json": 0.02, "encoder_names": 0.5}
    kind = chance.choices(list(CHANGES), [rare.get(name, 1) for name in CHANGES])[0]
    CHANGES[kind](chance, directory)
    return kind


class TooLongError(BaseException):
    """A try has gone on for longer than it may; no ``except Exception`` stops it."""


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
    """Raise an AssertionError where a model that loaded cannot be used."""
    model = checkpoint.model
    for name, tensor in model.state_dict().items():
        if tensor.device.type != "cpu" or not torch.isfinite(tensor).all():
            raise AssertionError(f"{name} is no tensor of finite numbers")
    size = model.encoder.preprocessing.size
    if size <= 256:
        with torch.inference_mode():
            state = model.start(torch.zeros(1, 3, size, size, dtype=torch.uint8))
            log_probs, _ = model.decoder.step(torch.tensor([checkpoint.vocabulary.bos]), state)
            vector = torch.ones(1, model.encoder.feature_size)
            agreed = (
                checkpoint.reranker.prepare(vector)(0, [(4, 5), ()])
                if checkpoint.reranker
                else [0.0]
            )
        if not all(map(math.isfinite, agreed)):
            raise AssertionError(f"captions agree with the reranker by {agreed}")
        if log_probs.shape != (1, len(checkpoint.vocabulary)):
            raise AssertionError(f"log-probabilities of the shape {tuple(log_probs.shape)}")


def attempt(directory: Path, seconds: float, forbidden: list[str]) -> tuple[str, str]:
    """Load one directory and return the outcome, and what there is to say of it."""
    forbidden.clear()
    try:
        with time_limit(seconds):
            check_usable(load_checkpoint(directory))
        outcome, said = "loaded", ""
    except CheckpointError as error:
        outcome, said = "refused", str(error)
        if "more memory than" in said or "allocate" in said:
            outcome = "problem"
        elif str(directory) not in said:
            outcome, said = "problem", f"the message names no file: {said}"
        elif len(said) > 2000:
            outcome, said = "problem", f"a message of {len(said)} characters: {said[:100]}"
    except (Exception, TooLongError):
        outcome, said = "problem", traceback.format_exc()
    if forbidden:
        outcome, said = "problem", f"it did what no load does: {forbidden}"
    return outcome, said


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def limit_memory(gibibytes: float) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(gibibytes * 2**30), resource.RLIM_INFINITY))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this one try, and say what came of it")
    parser.add_argument("--seconds", type=float, default=60, help="what one try may take")
    parser.add_argument("--memory", type=float, default=1, help="GiB that all may take beyond now")
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
            outcome, said = attempt(folder / "try", settings.seconds, forbidden)
            slowest = max(slowest, (time.perf_counter() - start, number))
            outcomes[outcome] += 1
            kinds[kind][outcome] += 1
            if settings.only is not None or (outcome == "problem" and outcomes["problem"] <= 5):
                print(f"try {number}, {kind}: {outcome}\n{said[-3000:]}", file=sys.stderr)
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
