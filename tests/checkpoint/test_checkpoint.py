import json
import os
import re
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file, save_file

from captioning.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.checkpoint.model_info import ModelInfo
from captioning.decoding import BeamSearch
from captioning.errors import CheckpointError, OutputError
from captioning.images.preprocessing import Preprocessing
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.text.vocabulary import Vocabulary

FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "vocabulary.json",
}


def small_checkpoint(**settings):
    vocabulary = Vocabulary.build([["a", "red", "dog", "runs"]], min_count=1)
    encoder = Encoder(
        EncoderConfig("timm:test_resnet", weights=None),
        Preprocessing(size=64, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), fit="crop"),
    )
    options = DecoderConfig(embedding_size=8, hidden_size=8, attention_size=8, **settings)
    model = CaptionModel(
        encoder,
        Decoder(options, vocabulary_size=len(vocabulary), feature_size=encoder.feature_size),
    ).eval()
    search = BeamSearch(width=2, length_penalty=0.7)
    return Checkpoint(model, vocabulary, search, ModelInfo(name="Small", scores={"BLEU-4": 0.1}))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "small"
    save_checkpoint(small_checkpoint(), directory)
    return directory


@pytest.fixture
def directory(written, tmp_path):
    shutil.copytree(written, tmp_path / "model")
    return tmp_path / "model"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("core", ["attention", "stack"])
def test_model_comes_back_whole(tmp_path, tie_weights, core):
    checkpoint = small_checkpoint(tie_weights=tie_weights, core=core)
    save_checkpoint(checkpoint, tmp_path / "model")
    loaded = load_checkpoint(tmp_path / "model")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    tokens = torch.tensor([4, 5])
    with torch.inference_mode():
        expected, _ = checkpoint.model.decoder.step(tokens, checkpoint.model.start(pixels))
        found, _ = loaded.model.decoder.step(tokens, loaded.model.start(pixels))
    assert torch.equal(found, expected)
    assert loaded.vocabulary == checkpoint.vocabulary
    assert loaded.search == checkpoint.search
    assert loaded.info == checkpoint.info
    assert loaded.model.encoder.preprocessing == checkpoint.model.encoder.preprocessing
    assert not loaded.model.training


def test_other_users_may_read_the_model(written):
    assert {path.stat().st_mode & 0o777 for path in written.iterdir()} == {0o644}


def test_directory_holds_the_documented_files(written):
    assert {path.name for path in written.iterdir()} == FILES
    assert [path.name for path in written.parent.iterdir()] == ["small"]  # nothing left behind
    card = (written / "README.md").read_text()
    assert "# Small" in card
    assert "BLEU-4: 0.1" in card


def test_half_precision_halves_the_file_and_loads_as_32_bit(tmp_path, written):
    save_checkpoint(load_checkpoint(written), tmp_path / "half", dtype=torch.float16)
    full = (written / "model.safetensors").stat().st_size
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.6 * full
    weights = load_checkpoint(tmp_path / "half").model.decoder.core.cell.W_hh
    assert weights.dtype == torch.float32
    torch.testing.assert_close(
        weights, load_checkpoint(written).model.decoder.core.cell.W_hh, atol=1e-3, rtol=1e-3
    )


def test_older_model_is_replaced_and_other_folders_are_left_alone(directory, tmp_path):
    checkpoint = small_checkpoint()
    save_checkpoint(checkpoint, directory)
    assert torch.equal(
        load_checkpoint(directory).model.decoder.core.cell.W_hh,
        checkpoint.model.decoder.core.cell.W_hh,
    )
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(OutputError, match=r"holds holiday\.jpg, which is no part of a model"):
        save_checkpoint(checkpoint, photos)
    assert (photos / "holiday.jpg").read_bytes() == b"dear"
    with pytest.raises(OutputError, match="is a file, so it is left as it is"):
        save_checkpoint(checkpoint, photos / "holiday.jpg")
    (photos / "holiday.jpg").rename(photos / "config.json")
    with pytest.raises(OutputError, match="and no model of this package"):
        save_checkpoint(checkpoint, photos)
    assert (photos / "config.json").read_bytes() == b"dear"


def test_failed_write_leaves_the_older_model(directory, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    before = load_checkpoint(directory).model.decoder.core.cell.W_hh
    monkeypatch.setattr("captioning.checkpoint.checkpoint.save_file", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(small_checkpoint(), directory)
    assert torch.equal(load_checkpoint(directory).model.decoder.core.cell.W_hh, before)
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_loading_needs_no_pretrained_weights(directory, monkeypatch):
    edit(directory / "config.json", lambda c: c["encoder"].update(weights="default"))

    def refuse(*_, **__):
        raise AssertionError("looked for pretrained weights")

    monkeypatch.setattr("captioning.nn.pretrained._fetch", refuse)
    assert load_checkpoint(directory).model.encoder.config.weights == "default"


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_missing_file_is_named(directory, name):
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\xfe\x00", b"[]", b'{"words": 3}'])
def test_damaged_file_is_named(directory, name, content):
    (directory / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load_checkpoint(directory)


def test_truncated_weights_are_said(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda c: c.update(format_version=99), "has format version 99"),
        ("config.json", lambda c: c.update(format="other"), "is not of this package"),
        ("config.json", lambda c: c.pop("decoder"), "has no decoder"),
        ("config.json", lambda c: c["decoder"].pop("cell"), "the decoder lacks cell"),
        ("config.json", lambda c: c["decoder"].update(dropuot=1), "Did you mean 'dropout'"),
        ("config.json", lambda c: c["decoder"].update(cell="lstn"), "config.json"),
        ("config.json", lambda c: c["decoder"].update(hidden_size=10**9), "different models"),
        ("config.json", lambda c: c["decoder"].update(injection="merge"), "different models"),
        ("config.json", lambda c: c["decoder"].update(dropout="much"), "config.json"),
        ("config.json", lambda c: c["encoder"].update(name="timm:nosuch"), "nosuch"),
        ("config.json", lambda c: c["encoder"].update(name="timm:test_vit"), "the decoder expects"),
        ("vocabulary.json", lambda c: c["words"].append("more"), "9 words, the decoder 8"),
        ("vocabulary.json", lambda c: c["words"].pop(0), "begins with"),
        ("generation_config.json", lambda c: c.update(method="beem"), "Did you mean"),
        ("preprocessor_config.json", lambda c: c.update(size=0), "size is 0"),
        ("preprocessor_config.json", lambda c: c.pop("mean"), "lacks mean"),
    ],
)
def test_parts_that_do_not_fit_are_said(directory, file, change, message):
    edit(directory / file, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(directory)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    checkpoint = small_checkpoint()
    with torch.no_grad():
        checkpoint.model.decoder.readout.W_hr.bias[0] = float("nan")
    save_checkpoint(checkpoint, tmp_path / "model")
    with pytest.raises(
        CheckpointError, match=r"decoder\.readout\.W_hr\.bias holds values that are no fini"
    ):
        load_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda c: c["encoder"].update(name=5), "encoder's name is 5; it is a str"),
        ("config.json", lambda c: c["encoder"].update(image_size=True), "image_size is True"),
        ("config.json", lambda c: c["encoder"].update(fit=None), "fit is None; it is one of 'squ"),
        ("config.json", lambda c: c["encoder"].update(weights=[]), "weights is"),
        ("config.json", lambda c: c["decoder"].update(factored="false"), "it is true or false"),
        ("config.json", lambda c: c["decoder"].update(tie_weights=1), "it is true or false"),
        ("config.json", lambda c: c["decoder"].update(layers=True), "layers is True; it is a who"),
        ("config.json", lambda c: c["decoder"].update(hidden_size=8.0), "it is a whole number"),
        ("config.json", lambda c: c["decoder"].update(hidden_size=-8), "hidden_size is -8"),
        ("config.json", lambda c: c["decoder"].update(dropout=float("nan")), "a finite number"),
        ("config.json", lambda c: c.update(format_version=True), "is not of this package"),
        ("config.json", lambda c: c.update(format_version=-1), "is not of this package"),
        ("config.json", lambda c: c.update(info=[1]), "info is no JSON object"),
        ("config.json", lambda c: c["info"].update(training="long"), "training is no JSON object"),
        ("config.json", lambda c: c["info"].update(limits=[1]), "limits holds more than strings"),
        ("preprocessor_config.json", lambda c: c.update(size="64"), "size is '64'; it is a whole"),
        ("preprocessor_config.json", lambda c: c.update(size=10**9), "lies between 1 and 4096"),
        ("preprocessor_config.json", lambda c: c.update(std=[0.1, float("nan"), 1]), "a finite nu"),
        ("preprocessor_config.json", lambda c: c.update(std=[0.1, 1e-40, 1]), "a std between"),
        ("generation_config.json", lambda c: c.update(width=10**9), "from 1 to 10,000"),
        ("generation_config.json", lambda c: c.update(width=True), "an integer"),
        ("generation_config.json", lambda c: c.update(max_length=10**9), "from 1 to 10,000"),
        ("generation_config.json", lambda c: c.update(length_penalty=10**400), "length_penalty"),
        ("generation_config.json", lambda c: c.update(forbidden_words=["h"]), "does not know 'h'"),
        ("vocabulary.json", lambda c: c["words"].__setitem__(5, "a"), "stand twice"),
        ("vocabulary.json", lambda c: c["words"].__setitem__(5, 5), "with strings was expected"),
        ("vocabulary.json", lambda c: c["words"].__setitem__(5, "\x1b[2J"), "a control character"),
    ],
)
def test_settings_of_another_type_or_out_of_range_are_said(
    directory, file, change, message, monkeypatch
):
    # A user runs without the type checks of the suite, which would stop some of these earlier.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    edit(directory / file, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(directory)
    assert file in str(caught.value)


@contextmanager
def no_more_memory_than(mebibytes):
    """Let no array be made beyond the memory that is used now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["decoder"].update(attention_size=10**5), "W_zh.weight has the shape"),
        (lambda c: c["decoder"].update(attention_size=10**9), "different models"),
        (lambda c: c["sizes"].update(feature_size=10**9), "the decoder expects 1000000000"),
        (lambda c: c["decoder"].update(layers=10**9), "layers is 1000000000. Use 1 to 100"),
        (lambda c: c["decoder"].update(layers=100), "lacks 297 tensors"),
        (lambda c: c["decoder"].update(hidden_size=10**5), "different models"),
        (lambda c: c["decoder"].update(cell="gru"), "different models"),
        (lambda c: c["encoder"].update(name="timm:convnext_xxlarge"), "the decoder expects"),
        (lambda c: c["encoder"].update(name="torchvision:vgg19"), "gives vectors of 512"),
        (lambda c: c["encoder"].update(name="torchvision:regnet_y_128gf"), "the decoder expects"),
    ],
)
def test_what_the_settings_ask_for_is_compared_before_memory_is_taken(tmp_path, change, message):
    checkpoint = small_checkpoint(attention=True)
    save_checkpoint(checkpoint, tmp_path / "model")
    load_checkpoint(tmp_path / "model")
    edit(tmp_path / "model" / "config.json", change)
    with no_more_memory_than(300), pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "model")


def test_large_images_take_no_memory_before_there_is_one(directory):
    edit(directory / "preprocessor_config.json", lambda c: c.update(size=4096))
    with no_more_memory_than(300):
        assert load_checkpoint(directory).model.encoder.positions == 128 * 128


@pytest.mark.parametrize("file", sorted(FILES - {"README.md"}))
def test_a_pipe_or_a_device_in_the_place_of_a_file_does_not_hang(directory, file):
    (directory / file).unlink()
    os.mkfifo(directory / file)
    with pytest.raises(CheckpointError, match=f"{file} is a pipe"):
        load_checkpoint(directory)
    (directory / file).unlink()
    (directory / file).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=f"{file} is a device"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    "name", ["timm:local-dir:/etc", "timm:hf-hub:timm/resnet18.a1_in1k", "timm:test_resnet./x"]
)
def test_an_encoder_from_a_folder_or_a_hub_is_not_looked_up(directory, name, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("looked for a network")

    edit(directory / "config.json", lambda c: c["encoder"].update(name=name))
    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(CheckpointError, match=r"config\.json: .* is no plain name of a network"):
        load_checkpoint(directory)


def retyped(path, name, dtype):
    tensors = load_file(path)
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("decoder.readout.W_hr.weight", torch.int64, "is stored as torch.int64, the model has"),
        ("decoder.readout.W_hr.weight", torch.bool, "is stored as torch.bool, the model has"),
        (
            "decoder.readout.W_hr.weight",
            torch.float64,
            "is stored as 'F64'; models of this package",
        ),
        ("encoder.network.bn1.num_batches_tracked", torch.float32, "is stored as torch.float32"),
    ],
)
def test_weights_of_another_type_are_refused_by_name(directory, name, dtype, message):
    retyped(directory / "model.safetensors", name, dtype)
    with pytest.raises(CheckpointError, match=f"safetensors: {name} {message}"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    "name",
    [
        "timm:test_vit",
        "timm:test_vit_relpos",  # computes places in a table, and does not save them
        "timm:efficientformer_l1",  # saves them
        "torchvision:regnet_y_400mf",  # its builder computes with tensors
        "torchvision:squeezenet1_1",
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_encoders_of_all_kinds_see_the_same_after_loading(tmp_path, name, dtype):
    encoder = Encoder(EncoderConfig(name, weights=None))
    options = DecoderConfig(embedding_size=8, hidden_size=8)
    vocabulary = Vocabulary.build([["a"]], min_count=1)
    model = CaptionModel(
        encoder, Decoder(options, vocabulary_size=5, feature_size=encoder.feature_size)
    ).eval()
    stored = {
        k: t.to(dtype).float() for k, t in model.state_dict().items() if t.is_floating_point()
    }
    model.load_state_dict(stored, strict=False)  # what the file can hold
    save_checkpoint(Checkpoint(model, vocabulary, BeamSearch()), tmp_path / "model", dtype=dtype)
    loaded = load_checkpoint(tmp_path / "model").model
    size = encoder.preprocessing.size
    pixels = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded.encoder(pixels).grid, encoder(pixels).grid)
    assert (loaded.encoder.positions, loaded.encoder.feature_size) == (
        encoder.positions,
        encoder.feature_size,
    )
    for own, other in zip(model.parameters(), loaded.parameters(), strict=True):
        assert (own.stride(), own.requires_grad) == (other.stride(), other.requires_grad)
    assert loaded.decoder.W_rw.weight is loaded.decoder.embedding.weight


def test_places_outside_their_table_are_refused(tmp_path):
    encoder = Encoder(EncoderConfig("timm:efficientformer_l1", weights=None))
    name, places = next(
        (name, buffer) for name, buffer in encoder.named_buffers() if name.endswith("bias_idxs")
    )
    places[0, 0] = 10**6
    model = CaptionModel(
        encoder,
        Decoder(
            DecoderConfig(embedding_size=8, hidden_size=8),
            vocabulary_size=5,
            feature_size=encoder.feature_size,
        ),
    ).eval()
    vocabulary = Vocabulary.build([["a"]], min_count=1)
    save_checkpoint(Checkpoint(model, vocabulary, BeamSearch()), tmp_path / "model")
    with pytest.raises(CheckpointError, match=f"{name} holds numbers outside 0 to 48"):
        load_checkpoint(tmp_path / "model")


def test_absent_directory_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="There is no model directory"):
        load_checkpoint("x" * 5000)
    with pytest.raises(CheckpointError, match="There is no model directory"):
        load_checkpoint(tmp_path / "absent")


def test_folder_that_only_looks_like_a_model_is_left_alone(directory, tmp_path):
    """Another library's model has a config.json too, and people keep notes beside theirs."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OutputError, match="left as it is"):
        save_checkpoint(small_checkpoint(), other)
    assert (other / "config.json").read_text() == '{"model_type": "bert"}'
    (directory / "notes.txt").write_text("precious")
    with pytest.raises(OutputError, match="left as it is"):
        save_checkpoint(small_checkpoint(), directory)
    assert (directory / "notes.txt").read_text() == "precious"
