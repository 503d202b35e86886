"""How times grow with images, beam width, batch size, vocabulary and threads."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.images import make_folder
from benchmarks.measure import measure, spread
from benchmarks.options import Options, caption_flags, task_settings
from benchmarks.products import Weights
from benchmarks.systems import CaptionCommand, Place, Worker

WIDTHS = (1, 2, 3, 5, 8, 10)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
VOCABULARIES = (3_000, 6_000, 12_000, 25_000, 50_000)
FIRST_IMAGES = 100
_LONG = 10_000  # images; a run of so many is not repeated
_STEPS = 12  # typical number of words of a caption, and its end

Curve = dict[str, Any]


def make_curve(
    x: Sequence[float],
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    theory: Mapping[str, Sequence[float]],
    **texts: Any,
) -> Curve:
    """Return a curve as JSON data.

    Args:
        x: Where it was measured.
        lines: The summary of the times at each x, for each line.
        theory: The predicted times.
        texts: ``x_label``, ``y_label`` and others.
    """
    slopes = {
        name: {
            "measured": slope(x, [point["median"] for point in points]),
            "theory": slope(x, theory[name]),
        }
        for name, points in lines.items()
    }
    return {"x": list(x), "lines": lines, "theory": theory, "slopes": slopes, **texts}  # fmt: skip


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of a line through the logarithms of the larger half of the points."""
    start = (len(x) - 1) // 2
    fit = np.polyfit(np.log(x[start:]), np.log(y[start:]), 1)
    return round(float(fit[0]), 3) + 0.0  # no negative zero


def images_curve(options: Options, found: list[Path], workspace: Path) -> Curve:
    """Files to JSON lines: a constant time per image, and memory that does not grow."""
    place, flags = Place(threads=options.threads), caption_flags(options)
    counts = [FIRST_IMAGES]
    while counts[-1] * 10 <= options.max_images:
        counts.append(counts[-1] * 10)
    points, memory = [], {}
    for count in counts:
        folder = workspace / f"{count} images"
        make_folder(folder, found, count)
        command = CaptionCommand("ours", folder, count, flags, place)
        long = count >= _LONG
        repeats, warmups = (1, 0) if long else (options.repeats, options.warmups)
        runs = measure([command], repeats, warmups=warmups)["ours"]
        points.append(spread([run.seconds for run in runs]))
        memory[str(count)] = dict(runs[-1].facts)
    per_image = points[-1]["median"] / counts[-1]
    return make_curve(
        counts, {"ours": points}, {"ours": [per_image * count for count in counts]},
        x_label="images", y_label="seconds", memory_mb=memory,
    )  # fmt: skip


def width_curve(options: Options, found: list[Path], workspace: Path) -> Curve:
    """Decoding: products of every step grow with the beam, those of the grid do not."""
    images = make_folder(workspace / "width", found, options.limit)
    search = {name: value for name, value in options.search.items() if name != "width"}
    settings = [
        task_settings(options, images=images, search={**search, "width": width}) for width in WIDTHS
    ]
    operations = [count_operations(options.model, width=width) for width in WIDTHS]
    return run_curve("decode", WIDTHS, settings, operations, options, x_label="beam width")


def vocabulary_curve(options: Options, found: list[Path], workspace: Path) -> Curve:
    """Decoding with random weights: only the readout grows with the vocabulary."""
    images = make_folder(workspace / "vocabulary", found, options.limit)
    search = {**options.search, "rerank_weight": 0}
    settings, operations = [], []
    for words in VOCABULARIES:
        model = workspace / f"{words} words"
        write_random_model(options.model, model, words)
        settings.append(task_settings(options, images=images, search=search, model=model))
        operations.append(count_operations(model, width=options.search.get("width")))
    return run_curve("decode", VOCABULARIES, settings, operations, options, x_label="words")


def batch_curve(options: Options, found: list[Path], workspace: Path) -> Curve:
    """Encoder and search: the same work per image in a batch of any size."""
    images = make_folder(workspace / "batch", found, max(options.limit, BATCHES[-1]))
    settings = [task_settings(options, images=images, batch_size=size) for size in BATCHES]
    same = [1.0] * len(BATCHES)
    return run_curve("generate", BATCHES, settings, same, options, x_label="images per batch")


def threads_curve(options: Options, found: list[Path], workspace: Path) -> Curve:
    """Each stage on one processor, on two, and so on: times fall in proportion."""
    images = make_folder(workspace / "threads", found, options.limit)
    threads = [2**power for power in range((os.cpu_count() or 1).bit_length())]
    lines, theory = {}, {}
    for task in ("read", "encode", "decode"):
        settings = [
            task_settings(options, images=images, threads=count, workers=count) for count in threads
        ]
        curve = run_curve(task, threads, settings, [1 / n for n in threads], options, x_label="")
        lines[task], theory[task] = curve["lines"][task], curve["theory"][task]
    return make_curve(threads, lines, theory, x_label="processors", y_label="ms per image")


CURVES: dict[str, Callable[[Options, list[Path], Path], Curve]] = {
    "images": images_curve,
    "width": width_curve,
    "batch": batch_curve,
    "vocabulary": vocabulary_curve,
    "threads": threads_curve,
}


def run_curve(
    task: str,
    x: Sequence[int],
    settings: Sequence[Mapping[str, Any]],
    operations: Sequence[float],
    options: Options,
    *,
    x_label: str,
) -> Curve:
    """Measure a task at every x, in turn; the theory passes through the last point."""
    systems = [
        Worker(f"{each} {x_label or 'processors'}", task, own, Place(threads=own["threads"]))
        for each, own in zip(x, settings, strict=True)
    ]
    runs = measure(systems, options.repeats, warmups=options.warmups)
    points = [spread([1000 * run.cost for run in own]) for own in runs.values()]
    predicted = [points[-1]["median"] * each / operations[-1] for each in operations]
    return make_curve(x, {task: points}, {task: predicted}, x_label=x_label, y_label="ms per image")


def count_operations(model: Path | str | None, *, width: int | None) -> float:
    """Return the operations of the products of a caption of typical length."""
    checkpoint = load(model)
    weights = Weights.of(checkpoint.model.decoder)
    rows = (width or checkpoint.search.width) * _STEPS
    positions = checkpoint.model.encoder.positions
    per_row = sum(w.numel() for w in (*weights.step, *weights.readout))
    per_image = sum(w.numel() for w in weights.image)
    per_position = sum(w.numel() for w in weights.grid)
    return 2.0 * (rows * per_row + per_image + positions * per_position)


def write_random_model(model: Path | str | None, directory: Path, words: int) -> None:
    """Write a model with its decoder replaced by a random one with another vocabulary."""
    from captioning.checkpoint import save_checkpoint
    from captioning.nn.decoder import Decoder
    from captioning.nn.model import CaptionModel
    from captioning.text.vocabulary import SPECIALS, Vocabulary

    old = load(model)
    sizes = old.model.decoder.sizes
    vocabulary = Vocabulary([*SPECIALS, *(f"w{number}" for number in range(words - len(SPECIALS)))])
    decoder = Decoder(
        old.model.decoder.config, vocabulary_size=words, feature_size=sizes.feature_size
    )
    new = replace(
        old,
        model=CaptionModel(old.model.encoder, decoder).eval(),
        vocabulary=vocabulary,
        reranker=None,
        search=replace(old.search, rerank_weight=0.0),
    )
    save_checkpoint(new, directory)


def load(model: Path | str | None) -> Any:
    """Return a model; this process needs its sizes only."""
    from captioning.checkpoint import load_checkpoint
    from captioning.inference.captioner import DEFAULT_MODEL

    return load_checkpoint(Path(model or DEFAULT_MODEL))


def print_curves(curves: Mapping[str, Curve]) -> None:
    """Print the curves as tables to standard error."""
    for name, curve in curves.items():
        for line, points in curve["lines"].items():
            both = curve["slopes"][line]
            print(f"\n{name}, {line} ({curve['y_label']}): slope {both['measured']}, "
                  f"theory {both['theory']}", file=sys.stderr)  # fmt: skip
            for x, point, expected in zip(curve["x"], points, curve["theory"][line], strict=True):
                print(f"{x:>10,}{point['median']:>12.3f}{point['min']:>12.3f}"
                      f"{point['max']:>12.3f}{expected:>12.3f}", file=sys.stderr)  # fmt: skip
        for count, memory in curve.get("memory_mb", {}).items():
            print(f"{int(count):>10,} images: {memory}", file=sys.stderr)


def draw_curves(curves: Mapping[str, Curve], path: Path) -> None:
    """Draw all curves into one figure, with the theory dashed."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    size = (4.2 * columns, 3.4 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat[len(curves) :]:
        axis.axis("off")
    for axis, (name, curve) in zip(axes.flat, curves.items(), strict=False):
        for line, points in curve["lines"].items():
            middle = [point["median"] for point in points]
            low = [point["median"] - point["min"] for point in points]
            high = [point["max"] - point["median"] for point in points]
            slopes = curve["slopes"][line]
            label = f"{line}: slope {slopes['measured']:.2f}, theory {slopes['theory']:.2f}"
            (drawn, *_) = axis.errorbar(
                curve["x"], middle, (low, high), marker="o", capsize=3, label=label
            )
            axis.plot(curve["x"], curve["theory"][line], "--", color=drawn.get_color())
        axis.set(title=name, xlabel=curve["x_label"], ylabel=curve["y_label"])
        axis.set(xscale="log", yscale="log")
        axis.set_xticks(curve["x"], [f"{x:,}" for x in curve["x"]], fontsize=8)
        axis.set_xticks([], minor=True)
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            formatter("{x:g}")
        axis.tick_params(axis="y", which="both", labelsize=8)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
