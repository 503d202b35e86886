"""Backends against the plain network in torch, and the cache of converted graphs."""

import copy
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_captioner import small_checkpoint

from captioning.bulk.resume import run_settings
from captioning.decoding import BeamSearch, Greedy
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.search import search
from captioning.errors import ConfigError
from captioning.graphs import graph_cache, openvino_encoder
from captioning.graphs.openvino_encoder import OpenVINOEncoder
from captioning.images.loader import ImageLoader
from captioning.inference import backends
from captioning.inference.backend_config import PLAIN, BackendConfig, ResolvedBackend
from captioning.inference.backends import LowPrecisionDecoder, load_backend, resolve_backend
from captioning.inference.captioner import Captioner
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.device import has_bfloat16
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
from captioning.nn.features import Features

CPU = torch.device("cpu")
OPENVINO = BackendConfig("openvino", "float32")


@pytest.fixture
def encoder():
    return small_checkpoint().model.encoder


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTIONING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch):
    """The encoders that were converted, which is every miss of the cache."""
    converted = []

    def convert(encoder):
        converted.append(encoder)
        return original(encoder)

    original = openvino_encoder.convert_encoder
    monkeypatch.setattr(openvino_encoder, "convert_encoder", convert)
    return converted


def plain_grid(encoder, pixels):
    with torch.inference_mode():
        return encoder(pixels).grid


@pytest.mark.parametrize(
    "name", ["timm:test_resnet", "timm:test_efficientnet", "timm:test_vit", "torchvision:resnet18"]
)
def test_openvino_float32_equals_the_torch_network(name, cache):
    encoder = Encoder(EncoderConfig(name, weights=None, image_size=None))
    size = encoder.preprocessing.size
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    features = OpenVINOEncoder(encoder, "float32")(pixels)
    expected = plain_grid(encoder, pixels)
    assert (features.grid - expected).abs().max() <= 1e-4 * expected.abs().max()
    torch.testing.assert_close(features.vector, features.grid.mean(1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_openvino_features_do_not_depend_on_the_batch(encoder, pixels, precision):
    encode = OpenVINOEncoder(encoder, precision)
    alone = torch.cat([encode(image[None]).grid for image in pixels])
    assert torch.equal(encode(pixels).grid, alone)
    assert torch.equal(encode(pixels.flip(0)).grid, alone.flip(0))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the threads of the process in /proc")
def test_openvino_thread_may_run_on_every_core(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    encoder = Encoder(EncoderConfig("timm:test_efficientnet", weights=None, image_size=160))
    encode = OpenVINOEncoder(encoder, "float32")  # kept until the threads are listed
    encode(torch.zeros(5, 3, 160, 160, dtype=torch.uint8))
    cores = [os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()]
    assert all(allowed == os.sched_getaffinity(0) for allowed in cores)


def test_ctrl_c_after_encoders_are_deleted_is_an_interrupt():
    """OpenVINO left a signal stack that did not exist: a segmentation fault."""
    script = """if True:
        import signal
        from captioning.graphs.openvino_encoder import OpenVINOEncoder
        from small_captioner import small_checkpoint
        encoders = [OpenVINOEncoder(small_checkpoint().model.encoder, "float32") for _ in "ab"]
        del encoders[0]
        del encoders[0]
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("interrupted")
    """
    path = os.pathsep.join(filter(None, sys.path))
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (0, "interrupted\n"), ran.stderr


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bfloat16_is_close_to_float32_but_differs(encoder, pixels, backend):
    loaded = load_backend(BackendConfig(backend, "bfloat16"), [small_checkpoint()])
    expected = plain_grid(encoder, pixels)
    difference = (loaded.models[0].encode(pixels).grid - expected).norm() / expected.norm()
    assert (1e-4 if has_bfloat16(CPU) else -1) < difference < 0.05  # it is not emulated


def test_captions_of_openvino_equal_those_of_torch(images):
    readable = [name for number, name in enumerate(images) if number not in (3, 6, 7)]
    checkpoint = small_checkpoint()
    plain, fast = Captioner(checkpoint), Captioner(checkpoint, backend=OPENVINO)
    assert str(fast.backend) == "openvino (float32)"
    for expected, found in zip(plain(readable), fast(readable), strict=True):
        assert found.text == expected.text
        assert found.log_prob == pytest.approx(expected.log_prob, abs=1e-4)


def test_plain_backend_follows_changed_weights(pixels):
    checkpoint = copy.deepcopy(small_checkpoint())
    encode = load_backend(PLAIN, [checkpoint]).models[0].encode
    before = encode(pixels).grid
    with torch.no_grad():
        for weight in checkpoint.model.encoder.parameters():
            weight.mul_(1.5)
    assert not torch.equal(encode(pixels).grid, before)


# --- choice -----------------------------------------------------------------------------------


def test_auto_backend_is_openvino_on_a_cpu_only():
    assert resolve_backend(BackendConfig(), CPU).backend == "openvino"
    assert resolve_backend(BackendConfig(), torch.device("meta")).backend == "torch"
    with pytest.raises(ConfigError, match=r"runs on the CPU.*Use the device cpu"):
        resolve_backend(OPENVINO, torch.device("meta"))


@pytest.mark.parametrize("fast", [True, False])
def test_auto_precision_is_bfloat16_only_in_openvino(fast, monkeypatch):
    monkeypatch.setattr(backends, "has_fast_bfloat16", lambda device: fast)

    def decide(backend):
        return resolve_backend(BackendConfig(backend), CPU, has_ranges=True).precision

    assert decide("openvino") == decide("auto") == ("bfloat16" if fast else "float32")
    assert decide("torch") == "float32"


def test_broken_openvino_falls_back_with_a_warning(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "captioning.graphs.openvino_encoder", None)
    with caplog.at_level(logging.WARNING):
        loaded = load_backend(BackendConfig(), [small_checkpoint()])
    assert loaded.resolved.backend == "torch"
    assert "torch is used instead" in caplog.text


def test_missing_openvino_falls_back_only_if_not_requested(monkeypatch):
    monkeypatch.setattr("captioning.graphs.load.find_spec", lambda name: None)
    assert resolve_backend(BackendConfig(), CPU).backend == "torch"
    with pytest.raises(ConfigError, match=r"OpenVINO is not installed\. Use pip install"):
        resolve_backend(OPENVINO, CPU)


def test_unsupported_encoder_falls_back_with_a_warning(cache, monkeypatch, caplog, pixels):
    def fail(encoder):
        raise RuntimeError("no such operation\nat line 5")

    monkeypatch.setattr(openvino_encoder, "convert_encoder", fail)
    checkpoint = small_checkpoint()
    with caplog.at_level(logging.WARNING):
        loaded = load_backend(BackendConfig("auto", "float32"), [checkpoint, checkpoint])
    assert loaded.resolved == ResolvedBackend("torch", "float32")
    (message,) = caplog.messages
    assert "timm:test_resnet (RuntimeError: no such operation). torch is used" in message
    assert torch.equal(
        loaded.models[1].encode(pixels).grid, plain_grid(checkpoint.model.encoder, pixels)
    )
    with pytest.raises(ConfigError, match=r"timm:test_resnet .* Use the backend torch\."):
        load_backend(OPENVINO, [checkpoint])


@pytest.mark.parametrize(("field", "value"), [("backend", "onnx"), ("precision", "float16")])
def test_unknown_backend_or_precision_raises(field, value, model):
    with pytest.raises(ConfigError, match=rf"{field} is '{value}'; use one of auto, "):
        Captioner.from_pretrained(model, **{field: value})


def test_run_settings_name_precision_but_not_float32_backend():
    checkpoint = small_checkpoint()

    def precision_of(backend, precision):
        captioner = Captioner(checkpoint, backend=BackendConfig(backend, precision))
        loader = ImageLoader(checkpoint.model.encoder.preprocessing)
        return run_settings(captioner, loader, checkpoint.search, None)["precision"]

    assert precision_of("torch", "float32") == precision_of("openvino", "float32") == "float32"
    assert precision_of("openvino", "bfloat16") == "openvino (bfloat16)"
    assert precision_of("torch", "bfloat16") == "torch (bfloat16)"


# --- cache ------------------------------------------------------------------------------------


def test_second_start_reads_the_graph_from_the_cache(encoder, pixels, cache, conversions):
    first = OpenVINOEncoder(encoder, "float32")(pixels)
    second = OpenVINOEncoder(encoder, "float32")(pixels)
    assert len(conversions) == 1
    assert torch.equal(first.grid, second.grid)


def test_changed_weights_or_preprocessing_miss_the_cache(encoder, cache, conversions):
    OpenVINOEncoder(encoder, "float32")
    with torch.no_grad():
        next(encoder.parameters()).add_(0.1)
    OpenVINOEncoder(encoder, "float32")
    encoder.preprocessing = replace(encoder.preprocessing, mean=(0.1, 0.1, 0.1))
    OpenVINOEncoder(encoder, "float32")
    assert len(conversions) == len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "folder"])
def test_damaged_cache_is_replaced(encoder, pixels, cache, conversions, damage):
    OpenVINOEncoder(encoder, "float32")
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"cut": content[:-1000], "bit": content, "empty": b""}[damage])
    grid = OpenVINOEncoder(encoder, "float32")(pixels).grid
    torch.testing.assert_close(grid, plain_grid(encoder, pixels), atol=1e-5, rtol=1e-4)
    assert len(conversions) == 2
    OpenVINOEncoder(encoder, "float32")
    assert len(conversions) == (3 if damage == "folder" else 2)


def test_unwritable_cache_changes_nothing_else(encoder, pixels, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAPTIONING_CACHE", str(tmp_path / "file" / "cache"))
    grid = OpenVINOEncoder(encoder, "float32")(pixels).grid
    torch.testing.assert_close(grid, plain_grid(encoder, pixels), atol=1e-5, rtol=1e-4)


def test_read_only_cache_is_used(encoder, cache, conversions, monkeypatch):
    OpenVINOEncoder(encoder, "float32")

    def refuse(path, *arguments):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    OpenVINOEncoder(encoder, "float32")
    assert len(conversions) == 1


def test_user_without_home_folder_has_no_cache(encoder, conversions, monkeypatch):
    def refuse(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CAPTIONING_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(graph_cache.Path, "expanduser", refuse)
    OpenVINOEncoder(encoder, "float32")
    assert len(conversions) == 1


def test_cache_keeps_the_most_recently_used_graphs(encoder, cache, monkeypatch):
    monkeypatch.setattr(graph_cache, "_MAX_FILES", 2)
    graph = openvino_encoder.convert_encoder(encoder)
    for key in ("a", "b", "a", "c"):
        graph_cache.cached_graph(key, lambda: graph)
    assert {path.name for path in cache.iterdir()} == {"a.graph", "c.graph"}


def test_layers_with_large_maps_are_marked_to_keep_float32(encoder, cache):
    graph = graph_cache.cached_graph("key", lambda: openvino_encoder.convert_encoder(encoder))
    marked = {}  # whether OpenVINO has read a mark, by the height of the feature map
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Convolution":
            height = node.output(0).shape[2]
            names = " ".join(node.get_rt_info()).lower()  # the name depends on the version
            marked.setdefault(height, set()).add("precis" in names)
    assert marked == {height: {height >= 32 // 4} for height in marked}
    assert {True} in marked.values()
    assert {False} in marked.values()


@pytest.mark.parametrize("method", [Greedy(), BeamSearch(width=8)])
def test_low_precision_search_does_not_depend_on_the_batch(method):
    config = DecoderConfig(core="attention", hidden_size=256, embedding_size=256)
    torch.manual_seed(0)
    decoder = Decoder(config, vocabulary_size=300, feature_size=128).to(torch.bfloat16).eval()
    low = LowPrecisionDecoder(decoder)
    grid = 8 * torch.randn(5, 9, 128)

    def run(images):
        with torch.inference_mode():
            state = low.start(Features(grid[images].mean(1), grid[images]))
            return search(low.step, state, method, TokenConstraints(1, 2))

    together = run(slice(0, 5))
    assert together == [run(slice(image, image + 1))[0] for image in range(5)]
