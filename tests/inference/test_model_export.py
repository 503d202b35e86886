"""Exported models: other programs run them, and write the captions of this package."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from external_features import external_checkpoint
from PIL import Image, ImageCms
from small_captioner import WORDS, small_checkpoint, write_photos

from captioning.checkpoint import save_checkpoint
from captioning.cli.main import main
from captioning.decoding import BeamSearch, Greedy
from captioning.errors import ConfigError, OutputError
from captioning.graphs.core import CORE
from captioning.inference import model_export
from captioning.inference.captioner import Captioner
from captioning.inference.model_export import export_model
from captioning.nn.decoder import Decoder
from captioning.reranking.ngram import NgramReranker
from captioning.text.caption_arrays import CaptionWords

pytestmark = pytest.mark.xdist_group("export")  # one process exports the models
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "caption_with_onnxruntime.py"
BLOCKED = """
import runpy, sys
for name in ("torch", "captioning", "openvino", "timm"):
    sys.modules[name] = None  # an import raises ImportError
script, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of several sizes; one is large, one is turned by EXIF, one has a color profile."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [
        *write_photos(folder, 3, size=(90, 70)),
        *write_photos(folder, 1, size=(700, 500), start=4),
        *write_photos(folder, 1, size=(30, 40), start=5, ending="png"),
    ]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(paths[0]).save(paths[0], exif=exif)
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"...."), (b"gXYZ", b"rXYZ"), (b"....", b"gXYZ")):
        swapped = swapped.replace(old, new)  # red and green
    Image.open(paths[1]).save(paths[1], icc_profile=swapped)
    return paths


def add_concepts(checkpoint):
    """Return the model with a decoder that has random concepts."""
    decoder = checkpoint.model.decoder
    config = replace(decoder.config, concepts=3)
    extended = Decoder(
        config,
        vocabulary_size=decoder.sizes.vocabulary_size,
        feature_size=decoder.sizes.feature_size,
        concepts=5,
        classes=4,
    )
    with torch.no_grad():
        for tensor in (*extended.parameters(), *extended.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 1)
        extended.concepts.words.copy_(torch.tensor([4, 6, 7, 5, 8]))
        extended.concepts.class_words[:] = torch.tensor([[0, 5, 5], [1, 2, 5], [5] * 3, [1, 5, 5]])
    checkpoint.model.decoder = extended.eval()
    return checkpoint


def add_reranker(checkpoint):
    """Return the model with an n-gram reranker, which its search uses."""
    captions = CaptionWords.from_lists([[WORDS[i : i + 5]] for i in range(12)])
    vectors = torch.randn(12, checkpoint.model.encoder.feature_size)
    reranker = NgramReranker.fit(vectors, captions, checkpoint.vocabulary)
    search = replace(checkpoint.search, rerank_weight=3.0)
    return replace(checkpoint, reranker=reranker, search=search)


BEAM = BeamSearch(
    width=4,
    max_length=7,
    min_length=3,
    length_penalty=0.5,
    no_repeat_ngram=2,
    block_repeated_words=True,
    forbidden_words=("hat",),
)
MODELS = {
    "attention, concepts and reranking": lambda: add_reranker(
        add_concepts(small_checkpoint(core="attention", readout="deep", image_size=64, search=BEAM))
    ),
    "image in the first step only": lambda: small_checkpoint(
        injection="first_word", cell="gru", search=Greedy(max_length=6)
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    """A model, and the directory of its export to ONNX."""
    torch.manual_seed(1)
    checkpoint = MODELS[request.param]()
    directory = tmp_path_factory.mktemp("exported") / "model"
    export_model(checkpoint, directory)
    return checkpoint, directory


def caption_elsewhere(script, directory, paths):
    """Return the captions of a script in an interpreter without torch and this package."""
    command = [sys.executable, "-c", BLOCKED, script, directory, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.stderr == ""
    return [line.partition(": ")[2] for line in done.stdout.splitlines()]


def test_export_captions_equal_torch_without_torch(exported, photos):
    checkpoint, directory = exported
    expected = [result.text for result in Captioner(checkpoint)(photos)]
    assert caption_elsewhere(SCRIPT, directory, photos) == expected
    assert len(set(expected)) > 2


def test_documented_example_is_greedy_search(exported, photos, tmp_path):
    checkpoint, directory = exported
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "example.py").write_text(code)
    search = Greedy(max_length=checkpoint.search.max_length)
    expected = [result.text for result in Captioner(checkpoint)(photos[2:], search=search)]
    found = caption_elsewhere(tmp_path / "example.py", directory, photos[2:])
    assert found == expected


def test_export_to_openvino_captions_equal_torch(exported, photos, tmp_path, monkeypatch):
    checkpoint, directory = exported
    monkeypatch.setattr(  # the ONNX files, which take seconds to write, are those of the other test
        model_export, "_write_onnx", lambda graph, path: shutil.copy(directory / path.name, path)
    )
    export_model(checkpoint, tmp_path / "model", "openvino")
    model = runpy.run_path(str(SCRIPT))["Model"](tmp_path / "model")
    model.graphs = {path.stem: OpenVINOGraph(path) for path in tmp_path.glob("model/*.xml")}
    expected = [result.text for result in Captioner(checkpoint)(photos)]
    assert [model.caption(path) for path in photos] == expected


class OpenVINOGraph:
    """A graph of OpenVINO with the interface of onnxruntime."""

    def __init__(self, path):
        precision = {"INFERENCE_PRECISION_HINT": "f32"}
        self.graph = CORE.compile_model(path, "CPU", precision)

    def get_inputs(self):
        return [Named(each.get_any_name()) for each in self.graph.inputs]

    def get_outputs(self):
        return [Named(each.get_any_name()) for each in self.graph.outputs]

    def run(self, names, inputs):
        found = self.graph(inputs)
        return [found[name] for name in names]


class Named:
    def __init__(self, name):
        self.name = name


# --- the directory ----------------------------------------------------------------------------


def quick_export(monkeypatch):
    """Replace the exporter of graphs, which takes seconds."""
    monkeypatch.setattr(
        model_export, "_write_graph", lambda graph, path, to: path.with_suffix(".onnx").touch()
    )


def test_export_command_writes_and_replaces_a_directory(model, tmp_path, monkeypatch, capsys):
    quick_export(monkeypatch)
    directory = tmp_path / "exported"
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            main(["export", str(model), "--to", "onnx", str(directory)])
        assert stop.value.code == 0
    assert "Wrote 7 files" in capsys.readouterr().err
    names = ["decoder_start.onnx", "decoder_step.onnx", "encoder.onnx"]
    settings = ["generation_config.json", "preprocessor_config.json", "vocabulary.json"]
    assert sorted(path.name for path in directory.iterdir()) == ["README.md", *names, *settings]
    assert json.loads((directory / "generation_config.json").read_text())["method"] == "beam"
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


def test_export_command_without_directory_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export"])
    assert stop.value.code == 2
    assert "no output directory given" in capsys.readouterr().err


def test_export_over_a_model_is_refused(tmp_path):
    checkpoint = small_checkpoint()
    save_checkpoint(checkpoint, tmp_path / "model")
    with pytest.raises(OutputError, match=r"do not belong to an exported model: config\.json"):
        export_model(checkpoint, tmp_path / "model")


# --- what cannot be exported ------------------------------------------------------------------


def test_export_of_model_without_cnn_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no CNN and reads external features"):
        export_model(external_checkpoint(), tmp_path / "model")


def test_export_without_onnx_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(model_export, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(ConfigError, match=r"needs onnx\. Run: pip install onnx"):
        export_model(small_checkpoint(), tmp_path / "model")


def test_export_of_unsupported_operation_is_refused(tmp_path, monkeypatch):
    def export(*arguments, **options):
        raise RuntimeError("no such operation\nat line 5")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(
        ConfigError, match=r"the encoder as onnx: RuntimeError: no such operation\."
    ):
        export_model(small_checkpoint(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_export_with_other_results_is_refused(tmp_path, monkeypatch):
    def run(path, inputs):
        with torch.no_grad():
            features = checkpoint.model.encoder(torch.from_numpy(inputs[0]))
        return [features.vector.numpy(), features.grid.numpy() + np.float32(0.5)]

    checkpoint = small_checkpoint()
    monkeypatch.setattr(model_export, "_write_onnx", lambda graph, path: None)
    monkeypatch.setitem(model_export._RUN, "onnx", run)
    with pytest.raises(ConfigError, match=r"the encoder as onnx: grid differs .* by 0\.\d+ of"):
        export_model(checkpoint, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
