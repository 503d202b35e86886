"""scripts/benchmark.py on a tiny model; no test depends on a time."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from drawn_images import draw
from PIL import Image
from small_captioner import small_checkpoint
from torch.nn.utils.rnn import pack_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from captioning.checkpoint import save_checkpoint
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.features import Features

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scripts_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def here(monkeypatch):
    """Run the tasks of this checkout in this process: starting another takes seconds."""
    import benchmark
    from benchmarks import measure, scaling, systems
    from benchmarks.worker import prepare, run_once

    class Here:
        def __init__(self, name, task, settings, place=None):
            self.name, self._task = name, prepare(task, json.loads(json.dumps(settings)))

        def run(self):
            return run_once(self._task)

        def close(self):
            pass

    def start(name, task, settings, place=None):
        own = place is None or place.checkout == systems.THIS_CHECKOUT
        return (Here if own else systems.Worker)(name, task, settings, place)

    for module in (benchmark, scaling):
        monkeypatch.setattr(module, "Worker", start)
    monkeypatch.setattr(measure, "PAUSE", 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        draw(number).save(folder / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def attending(tmp_path_factory):
    """The directory of a tiny model with attention, as the textbook way needs it."""
    directory = tmp_path_factory.mktemp("models") / "attending"
    save_checkpoint(small_checkpoint(core="attention", readout="deep"), directory)
    return directory


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the script and return the JSON of the last line."""

    def run(*words):
        import benchmark

        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, words)])
        benchmark.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def check_ratio(result, name, numerator, denominator):
    """Check a ratio against the times of its two systems."""
    times = [result["systems"][system]["ms_per_unit"]["all"] for system in (numerator, denominator)]
    expected = [a / b for a, b in zip(*times, strict=True)]
    assert result["ratios"][name]["all"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.usefixtures("here")
def test_encode_command_runs_another_checkout(run, model, photos, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "captioning").symlink_to(ROOT / "captioning")
    words = ("--model", model, "--images", photos, "--limit", 4, "--repeats", 2)
    result = run("encode", *words, "--against", tmp_path / "other", "--workers", 0, "--threads", 1)
    assert {name: own["units"] for name, own in result["systems"].items()} == {
        "ours": 4,
        "other": 4,
    }
    check_ratio(result, "times faster than other", "other", "ours")
    assert result["machine"]["versions"]["torch"] == version("torch")
    assert result["options"]["threads"] == 1


@pytest.mark.usefixtures("here")
def test_decode_command_reports_stages_and_products(run, attending, photos):
    words = ("--model", attending, "--images", photos, "--limit", 4, "--workers", 0)
    result = run("decode", *words, "--repeats", 2, "--against", "textbook")
    systems = result["systems"]
    assert systems["ours"]["stages_ms_per_unit"]["decoder steps"] > 0
    assert systems["products"]["gflop_per_unit"] > 0
    check_ratio(result, "products / ours", "products", "ours")
    check_ratio(result, "times faster than textbook", "textbook", "ours")


@pytest.mark.usefixtures("here")
def test_caption_command_measures_stages_and_memory(run, attending, photos):
    words = ("--model", attending, "--images", photos, "--limit", 6, "--stage-limit", 4)
    more = ("--workers", 0, "--journal", "--batch-size", 2, "--search", "width=1")
    result = run("caption", *words, *more, "--repeats", 1, "--warmups", 0)
    systems = result["systems"]
    assert systems["ours"]["units"] == 6
    assert systems["start-up"]["units"] == 1
    assert systems["ours"]["peak_mb"] >= systems["ours"]["mb_at_end"] > 0
    assert set(systems["timed"]["stages_ms_per_unit"]) == {"journal", "output"}
    ms = {name: system["ms_per_unit"]["median"] for name, system in systems.items()}
    stages = ms["reading"] + ms["encoder"] + ms["decoder"]
    ratios = {name: ratio["median"] for name, ratio in result["ratios"].items()}
    assert ratios["sum of the stages / ours"] == pytest.approx(stages / ms["ours"], rel=1e-3)
    # As sums: a difference of two rounded times may be no larger than their rounding.
    beyond = 1000 * ratios["start-up without import torch, in seconds"]
    assert ms["import torch"] + beyond == pytest.approx(ms["start-up"], rel=1e-4)
    running = stages / ratios["sum of the stages / ours without start-up"]
    assert ms["start-up"] + 5 * running == pytest.approx(6 * ms["ours"], rel=1e-4)


@pytest.mark.usefixtures("here")
def test_encode_command_runs_the_textbook_way(run, attending, photos):
    words = ("--model", attending, "--images", photos, "--limit", 4, "--peer-limit", 2)
    result = run("encode", *words, "--against", "textbook", "--workers", 0, "--warmups", 0)
    assert {name: own["units"] for name, own in result["systems"].items()} == {
        "ours": 4,
        "textbook": 2,
    }
    check_ratio(result, "times faster than textbook", "textbook", "ours")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("core", ["stack", "attention"])
def test_train_command_reports_its_products(run, core):
    words = ("--limit", 10, "--vocabulary", 40, "--batch-size", 5, "--repeats", 1)
    result = run("train", *words, "--core", core, "--warmups", 0)
    assert result["unit"] == "caption"
    check_ratio(result, "products / ours", "products", "ours")


@pytest.mark.usefixtures("here")
def test_train_command_compares_two_processes_with_one(run):
    words = ("--limit", 10, "--vocabulary", 40, "--batch-size", 5, "--repeats", 2)
    result = run("train", *words, "--processes", 2, "--warmups", 0)
    assert result["systems"]["2 processes"]["processes"] == 2
    assert result["systems"]["2 processes"]["units"] == result["systems"]["ours"]["units"] == 10
    check_ratio(result, "2 processes / ours", "ours", "2 processes")


@pytest.mark.usefixtures("here")
def test_score_command_scores_a_caption_file(run, tmp_path):
    lines = [
        f"{n}.jpg#{k}\tA dog number {n} runs {k} times .\n" for n in range(4) for k in range(5)
    ]
    (tmp_path / "captions.txt").write_text("".join(lines))
    words = ("--captions", tmp_path / "captions.txt", "--limit", 4)
    result = run("score", *words, "--repeats", 1, "--warmups", 0)
    assert result["systems"]["ours"]["cider"] > 0
    assert result["systems"]["reward"]["units"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode", "--against", "vit"], "--against vit is not known. Use textbook, vit-gpt2, or"),
        (["encode", "--images", "."], "has no images"),
        (["encode", "--search", "width"], "'width' is not a setting"),
    ],
)
@pytest.mark.usefixtures("here")
def test_wrong_options_are_explained(run, words, message, attending, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(*words, "--model", attending)
    assert message in f"{stopped.value} {capsys.readouterr().err}"


def test_measure_alternates_and_ratios_are_of_rounds(monkeypatch):
    from benchmarks.measure import Run, compute_ratios, faster, measure

    monkeypatch.setattr("benchmarks.measure.PAUSE", 0)
    order, seconds = [], {"a": [9, 1, 2, 4], "b": [9, 3, 10, 4]}

    class Fake:
        def __init__(self, name):
            self.name, self.times = name, iter(seconds[name])

        def run(self):
            order.append(self.name)
            return Run(next(self.times), 2)

        def close(self):
            order.append("end")

    runs = measure([Fake("a"), Fake("b")], 3, warmups=1)
    assert order == ["a", "b"] * 4 + ["end"] * 2
    ratio = compute_ratios(runs, {"r": faster("a", than="b")})["r"]
    assert ratio == {"median": 3, "min": 1, "max": 5, "all": [3, 5, 1]}


def small_decoder(core, **options):
    config = DecoderConfig(
        core=core, embedding_size=6, hidden_size=5, attention_size=4, dropout=0.0, **options
    )
    return Decoder(config, vocabulary_size=11, feature_size=7)


class ProductCounter(TorchDispatchMode):
    """Counts the operations of matrix products; products with a vector do not count."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            a, b = args[-2:]
            if min(*a.shape, *b.shape) > 1:
                self.operations += 2 * len(a) * b.numel()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("core", ["stack", "attention"])
@pytest.mark.parametrize("readout", ["linear", "deep"])
def test_search_products_equal_counted_operations(core, readout):
    from benchmarks.products import Products, Weights, search_products

    B, P, rows = 2, 3, [2, 6, 6]
    decoder = small_decoder(core, readout=readout).eval()
    features = Features(torch.rand(B, 7), torch.rand(B, P, 7))
    with torch.no_grad(), ProductCounter() as counter:
        state = decoder.start(features)
        for count in rows:
            per_row = torch.arange(len(state)).repeat_interleave(count // len(state))
            state = state.select(per_row)
            _, state = decoder.step(torch.ones(count, dtype=torch.long), state)
    words = 2 * 11 * 6 * (4 * 5 + (6 if readout == "deep" else 0))  # the table, computed once
    own = Products(search_products(Weights.of(decoder), rows, [B], P), torch.float32)
    assert own.operations == counter.operations - words
    own.run()


@pytest.mark.parametrize("core", ["stack", "attention"])
def test_training_products_equal_counted_operations(core):
    from benchmarks.products import Products, Weights, teacher_forcing_products

    B, P = 3, 2
    decoder = small_decoder(core, readout="deep")
    packed = pack_sequence([torch.tensor(words) for words in ([1, 4, 5], [1, 4, 7], [1, 8])])
    with ProductCounter() as counter:
        features = Features(torch.rand(B, 7), torch.rand(B, P, 7))
        decoder.teacher_forcing(features, packed).logits.sum().backward()
    sizes, words = packed.batch_sizes.tolist(), len(packed.data.unique())
    products = teacher_forcing_products(Weights.of(decoder), sizes, B, words, P)
    own = Products(products, torch.float32)
    first = 2 * B * 5 * (4 * 5 + (4 if core == "attention" else 0))  # h_0 needs no gradient
    assert own.operations == counter.operations + first
    own.run()


@torch.no_grad()
def test_textbook_greedy_equals_steps_of_the_decoder(attending, photos):
    from benchmarks.peers import Textbook

    textbook = Textbook({"model": attending, "search": {"width": 1}})
    decoder, eos = textbook.subject.checkpoint.model.decoder, textbook.eos
    for path in photos.iterdir():
        grid = textbook.encode(textbook.read(str(path)))
        state, tokens = decoder.start(Features(grid.mean(1), grid)), [textbook.bos]
        while tokens[-1] != eos and len(tokens) <= textbook.max_length + 1:
            log_probs, state = decoder.step(torch.tensor(tokens[-1:]), state)
            tokens.append(int(log_probs.argmax()))
        expected = [token for token in tokens if token not in (textbook.bos, eos)]
        assert textbook.search(grid) == expected


@pytest.mark.usefixtures("here")
def test_decode_command_runs_a_vit_gpt2(run, attending, photos, monkeypatch):
    pytest.importorskip("transformers")
    from benchmarks import peers

    vit = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "image_size": 32}
    monkeypatch.setattr(peers, "VIT", {**vit, "num_attention_heads": 2})
    monkeypatch.setattr(peers, "GPT2", {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 40})
    words = ("--model", attending, "--images", photos, "--limit", 4, "--batch-size", 3)
    more = ("--against", "vit-gpt2", "--warmups", 0, "--repeats", 1, "--workers", 0)
    result = run("decode", *words, *more)
    check_ratio(result, "times faster than vit-gpt2", "vit-gpt2", "ours")


@pytest.mark.usefixtures("here")
def test_scaling_command_measures_and_draws_curves(run, attending, photos, tmp_path, monkeypatch):
    from benchmarks import scaling

    monkeypatch.setattr(scaling, "WIDTHS", (1, 4))
    monkeypatch.setattr(scaling, "BATCHES", (1, 2))
    monkeypatch.setattr(scaling, "VOCABULARIES", (30, 60))
    monkeypatch.setattr(scaling.os, "cpu_count", lambda: 2)
    words = ("--model", attending, "--images", photos, "--limit", 4, "--workers", 0)
    more = ("--repeats", 1, "--warmups", 0, "--figure", tmp_path / "curves.png")
    first = run("scaling", *words, "--curves", "width", "--repeats", 1)
    (tmp_path / "first.json").write_text(json.dumps(first))
    curves = ("batch", "vocabulary", "threads")
    result = run("scaling", *words, *more, "--curves", *curves, "--add", tmp_path / "first.json")
    assert list(result["curves"]) == ["width", *curves]
    assert list(result["curves"]["threads"]["lines"]) == ["read", "encode", "decode"]
    assert result["curves"]["threads"]["slopes"]["encode"]["theory"] == -1
    assert result["curves"]["batch"]["slopes"]["generate"]["theory"] == 0
    assert 0 < result["curves"]["width"]["slopes"]["decode"]["theory"] < 1
    assert 0 < result["curves"]["vocabulary"]["slopes"]["decode"]["theory"] < 1
    with Image.open(tmp_path / "curves.png") as figure:
        assert figure.width > figure.height


def test_images_curve_reports_memory_of_each_run(run, model, photos, monkeypatch):
    from benchmarks import scaling

    monkeypatch.setattr(scaling, "FIRST_IMAGES", 1)
    words = ("--model", model, "--images", photos, "--max-images", 10, "--warmups", 0)
    result = run("scaling", *words, "--curves", "images", "--repeats", 1, "--workers", 0)
    curve = result["curves"]["images"]
    assert curve["x"] == [1, 10]
    assert curve["slopes"]["ours"]["theory"] == 1
    assert curve["memory_mb"]["10"]["peak_mb"] >= curve["memory_mb"]["10"]["mb_at_end"] > 0


def test_slope_of_a_power_law_is_its_exponent():
    from benchmarks.scaling import slope

    assert slope([1, 2, 4, 8], [9, 8, 32, 128]) == 2
