"""Encoders in 8-bit integers: against the plain network, and the file of ranges."""

import json
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_images import draw
from safetensors.torch import load_file, save_file
from small_captioner import small_checkpoint

from captioning.bulk.resume import fingerprint
from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.cli.main import main
from captioning.errors import CheckpointError, ConfigError
from captioning.graphs.openvino_encoder import OpenVINOEncoder
from captioning.images.loader import ImageLoader
from captioning.inference.backend_config import BackendConfig, ResolvedBackend
from captioning.inference.captioner import Captioner
from captioning.nn.activation_ranges import check_ranges, measure_ranges
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig


@pytest.fixture(scope="module")
def pixels():
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def checkpoint(pixels):
    plain = small_checkpoint()
    return replace(plain, ranges=measure_ranges(plain.model.encoder, pixels.split(2)))


def test_ranges_are_those_of_the_first_convolutions_input(checkpoint, pixels):
    encoder = checkpoint.model.encoder
    normal = (pixels.numpy() / 255 - 0.5) / 0.2
    expected = np.array([normal.min(), normal.max()])
    name = min(checkpoint.ranges, key=list(checkpoint.ranges).index)
    np.testing.assert_allclose(checkpoint.ranges[name], expected, atol=1e-5)
    convolutions = {n for n, m in encoder.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert set(checkpoint.ranges) == convolutions


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_efficientnet"])
def test_int8_grid_is_close_to_float32_but_differs(name):
    encoder = Encoder(EncoderConfig(name, weights=None))
    size = encoder.preprocessing.size
    images = torch.stack([encoder.preprocessing.pixels(draw(number)) for number in range(6)])
    assert images.shape[-1] == size
    with torch.inference_mode():
        expected = encoder(images).grid
    ranges = measure_ranges(encoder, [images])
    grid = OpenVINOEncoder(encoder, "int8", ranges)(images).grid
    assert 1e-4 < (grid - expected).norm() / expected.norm() < 0.1


def test_int8_ranges_that_are_too_small_change_the_grid(checkpoint, pixels):
    encoder = checkpoint.model.encoder
    ranges = {name: values / 10 for name, values in checkpoint.ranges.items()}
    clipped = OpenVINOEncoder(encoder, "int8", ranges)(pixels).grid
    expected = OpenVINOEncoder(encoder, "float32")(pixels).grid
    assert (clipped - expected).norm() / expected.norm() > 0.2


def test_saved_ranges_equal_the_loaded_ones(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "model")
    loaded = load_checkpoint(tmp_path / "model")
    assert loaded.ranges.keys() == checkpoint.ranges.keys()
    assert all(torch.equal(loaded.ranges[name], checkpoint.ranges[name]) for name in loaded.ranges)
    save_checkpoint(replace(loaded, ranges=None), tmp_path / "model")
    assert load_checkpoint(tmp_path / "model").ranges is None


def test_int8_without_ranges_names_the_command(model):
    with pytest.raises(ConfigError, match=r"Run captioning calibrate MODEL --images"):
        Captioner.from_pretrained(model, device="cpu", precision="int8")
    with pytest.raises(ConfigError, match=r"int8' needs the backend openvino"):
        Captioner.from_pretrained(model, device="cpu", precision="int8", backend="torch")


def _first(ranges):
    return next(iter(ranges))


BAD_RANGES = [
    (lambda r: r.update(other=r[_first(r)].clone()), "no convolution 'other'"),
    (
        lambda r: r.update({_first(r): torch.zeros(2, 7)}),
        r"has shape \(2, 7\) .* expected \(2,\)",
    ),
    (lambda r: r.update({_first(r): torch.zeros(2, dtype=torch.int64)}), "int64, expected"),
    (lambda r: r.update({_first(r): torch.full((2,), torch.nan)}), "not finite"),
    (lambda r: r.update({_first(r): r[_first(r)].flip(0)}), "minimum above its maximum"),
]


@pytest.mark.parametrize(("change", "message"), BAD_RANGES)
def test_wrong_ranges_are_refused_by_file_and_name(change, message, checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "model")
    path = tmp_path / "model" / "int8.safetensors"
    ranges = load_file(path)
    change(ranges)
    save_file(ranges, path)
    with pytest.raises(CheckpointError, match=rf"int8\.safetensors.*{message}"):
        load_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("length", [0, 7, -1, "huge header"])
def test_damaged_ranges_file_is_refused_by_name(length, checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "model")
    path = tmp_path / "model" / "int8.safetensors"
    content = path.read_bytes()
    damaged = struct.pack("<Q", 2**40) if length == "huge header" else content[:length]
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"int8\.safetensors' is damaged or truncated"):
        load_checkpoint(tmp_path / "model")


def test_encoder_without_convolutions_cannot_be_measured(checkpoint):
    encoder = Encoder(EncoderConfig("timm:test_resnet", weights=None))
    encoder.network = torch.nn.Identity()
    with pytest.raises(ConfigError, match="has no convolutions, so int8 has no effect"):
        measure_ranges(encoder, [])
    with pytest.raises(ConfigError, match="the encoder has no convolution"):
        check_ranges(encoder, checkpoint.ranges)


def test_calibrate_command_makes_int8_available(images, tmp_path, capsys):
    save_checkpoint(small_checkpoint(), tmp_path / "model")
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", str(tmp_path / "model"), "--workers", "0", "--images", *images])
    assert stop.value.code == 1  # three of the images are damaged
    err = capsys.readouterr().err
    assert "convolutions on 9 images" in err
    assert err.count("Not used: ") == 3
    captioner = Captioner.from_pretrained(tmp_path / "model", device="cpu", precision="int8")
    assert str(captioner.backend) == "openvino (int8)"
    assert captioner(images[0]).text
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", str(tmp_path / "model"), "--workers", "0", "--images", images[3]])
    assert stop.value.code == 1
    assert "none of the images can be read" in capsys.readouterr().err


def test_info_names_int8_and_the_automatic_backend(checkpoint, tmp_path, capsys):
    save_checkpoint(checkpoint, tmp_path / "model")
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "model"), "--json"])
    backend = json.loads(capsys.readouterr().out)["backend"]
    assert backend["int8_calibrated"] is True
    assert re.fullmatch(r"(openvino|torch) \((float32|bfloat16)\)", backend["auto"])


def test_captions_of_int8_do_not_depend_on_the_batch(checkpoint, images):
    config = BackendConfig("openvino", "int8")
    readable = [name for number, name in enumerate(images) if number not in (3, 6, 7)]
    found = Captioner(checkpoint, backend=config)(readable)
    assert all(result.ok and result.text for result in found)
    assert [r.text for r in found] == [
        Captioner(checkpoint, backend=config)(name).text for name in readable
    ]


def test_ranges_decide_about_resuming_in_int8_only(checkpoint):
    plain = replace(checkpoint, ranges=None)
    float32, int8 = ResolvedBackend("torch", "float32"), ResolvedBackend("openvino", "int8")
    assert fingerprint([plain], float32) == fingerprint([checkpoint], float32)
    assert fingerprint([plain], int8) != fingerprint([checkpoint], int8)


def test_calibrate_spreads_the_images_over_all(images, tmp_path, monkeypatch):
    save_checkpoint(small_checkpoint(), tmp_path / "model")
    read = []

    def batches(loader, refs):
        read.extend(ref.name for ref in refs)
        yield from original(loader, refs)

    original = ImageLoader.batches
    monkeypatch.setattr(ImageLoader, "batches", batches)
    words = ["calibrate", str(tmp_path / "model"), "--workers", "0", "--limit", "8"]
    with pytest.raises(SystemExit):
        main([*words, "--images", *images])
    assert read == [images[number] for number in (0, 1, 3, 4, 6, 7, 9, 10)]
