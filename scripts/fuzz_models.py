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
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fuzz_model_weights  # noqa: F401  (registers its changes)
import torch
from fuzz_model_files import ATTENTION, CHANGES, FILES

from captioning.checkpoint import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from captioning.decoding import BeamSearch
from captioning.errors import CheckpointError
from captioning.images.preprocessing import Preprocessing
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.reranking.ngram import NgramReranker
from captioning.text.caption_arrays import CaptionWords
from captioning.text.vocabulary import Vocabulary

FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "pickle.find_class", "subprocess.Popen")


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
            reranker = NgramReranker.fit(
                torch.randn(2, encoder.feature_size), CaptionWords.from_lists(captions), vocabulary
            )
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
