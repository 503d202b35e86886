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

from captioning.checkpoint import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from captioning.decoding import BeamSearch
from captioning.errors import CheckpointError, OutputError
from captioning.images.preprocessing import Preprocessing
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EncoderConfig
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
def test_load_restores_saved_model(tmp_path, tie_weights, core):
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


def test_save_files_are_readable_by_other_users(written):
    assert {path.stat().st_mode & 0o777 for path in written.iterdir()} == {0o644}


def test_save_writes_the_documented_files(written):
    assert {path.name for path in written.iterdir()} == FILES
    assert [path.name for path in written.parent.iterdir()] == ["small"]  # no temporary files
    card = (written / "README.md").read_text()
    assert "# Small" in card
    assert "BLEU-4: 0.1" in card


def test_save_float16_halves_file_and_loads_as_32_bit(tmp_path, written):
    save_checkpoint(load_checkpoint(written), tmp_path / "half", dtype=torch.float16)
    full = (written / "model.safetensors").stat().st_size
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.6 * full
    weights = load_checkpoint(tmp_path / "half").model.decoder.core.cell.W_hh
    assert weights.dtype == torch.float32
    torch.testing.assert_close(
        weights, load_checkpoint(written).model.decoder.core.cell.W_hh, atol=1e-3, rtol=1e-3
    )


def test_save_replaces_a_model_and_nothing_else(directory, tmp_path):
    checkpoint = small_checkpoint()
    save_checkpoint(checkpoint, directory)
    assert torch.equal(
        load_checkpoint(directory).model.decoder.core.cell.W_hh,
        checkpoint.model.decoder.core.cell.W_hh,
    )
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(OutputError, match=r"do not belong to a model: holiday\.jpg\. Move"):
        save_checkpoint(checkpoint, photos)
    assert (photos / "holiday.jpg").read_bytes() == b"dear"
    with pytest.raises(OutputError, match="is a file and is not replaced"):
        save_checkpoint(checkpoint, photos / "holiday.jpg")
    (photos / "holiday.jpg").rename(photos / "config.json")
    with pytest.raises(OutputError, match="was not written by captioning"):
        save_checkpoint(checkpoint, photos)
    assert (photos / "config.json").read_bytes() == b"dear"


def test_save_full_disk_keeps_older_model(directory, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    before = load_checkpoint(directory).model.decoder.core.cell.W_hh
    monkeypatch.setattr("captioning.checkpoint.save.save_file", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(small_checkpoint(), directory)
    assert torch.equal(load_checkpoint(directory).model.decoder.core.cell.W_hh, before)
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_load_does_not_fetch_pretrained_weights(directory, monkeypatch):
    edit(directory / "config.json", lambda c: c["encoder"].update(weights="default"))

    def refuse(*_, **__):
        raise AssertionError("pretrained weights were fetched")

    monkeypatch.setattr("captioning.nn.pretrained._fetch", refuse)
    assert load_checkpoint(directory).model.encoder.config.weights == "default"


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_load_missing_file_is_named(directory, name):
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\xfe\x00", b"[]", b'{"words": 3}'])
def test_load_damaged_file_is_named(directory, name, content):
    (directory / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load_checkpoint(directory)


def test_load_truncated_weights_are_refused(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged or truncated"):
        load_checkpoint(directory)


def update(part=None, **fields):
    """Return a change of fields of a JSON object, or of its part."""
    return lambda content: (content[part] if part else content).update(fields)


def set_word(word):
    return lambda content: content["words"].__setitem__(5, word)


NAN = float("nan")
BAD_CONFIGS = [
    (update(format_version=99), "format_version is 99, .* Update captioning"),
    (update(format_version=True), "format_version: expected an integer"),
    (update(format="other"), "format: expected one of captioning"),
    (lambda c: c.pop("decoder"), "missing field decoder"),
    (lambda c: c["decoder"].pop("cell"), "decoder.cell: the field is missing"),
    (update("decoder", dropuot=1), "decoder.dropuot: unknown field. Did you mean 'dropout'"),
    (update("decoder", cell="lstn"), "decoder.cell: expected one of"),
    (update("decoder", core=True), "decoder.core: expected a string"),
    (update("decoder", tie_weights=1), "decoder.tie_weights: expected true or false, found 1"),
    (update("decoder", layers=True), "decoder.layers: expected an integer"),
    (update("decoder", hidden_size=8.0), "decoder.hidden_size: expected an integer, found 8.0"),
    (update("decoder", hidden_size=-8), "hidden_size is -8"),
    (update("decoder", hidden_size=10**9), "overflowed"),
    (update("decoder", injection="merge"), "different models"),
    (update("decoder", dropout="much"), "decoder.dropout: expected a number"),
    (update("decoder", dropout=NAN), "JSON is malformed"),
    (update("encoder", name=5), "encoder.name: expected a string, found 5"),
    (update("encoder", name="timm:nosuch"), "nosuch"),
    (update("encoder", name="timm:test_vit"), "the decoder expects"),
    (update("encoder", image_size=True), "encoder.image_size: expected an integer or null"),
    (update("encoder", fit=None), "encoder.fit: expected a string, found null"),
    (update("encoder", weights=[]), "encoder.weights: expected a string or"),
    (update(info=[1]), "info: expected an object"),
    (update("info", training="long"), "info.training: expected an object"),
    (update("info", limits=[1]), r"info.limits\[0\]: expected a string"),
]
BAD_PREPROCESSING = [
    (update(size=0), "size is 0"),
    (update(size=10**9), "size is 1000000000.*4096"),
    (update(size="64"), 'size: expected an integer, found "64"'),
    (lambda c: c.pop("mean"), "mean: the field is missing"),
    (update(std=[0.1, NAN, 1]), "JSON is malformed"),
    (update(std=[0.1, 1e-40, 1]), "std from 0.000001"),
]
BAD_SEARCHES = [
    (update(method="beem"), "Did you mean"),
    (update(width=10**9), "from 1 to 10,000"),
    (update(width=True), "an integer"),
    (update(max_length=10**9), "from 1 to 10,000"),
    (update(length_penalty=10**400), "length_penalty"),
    (update(forbidden_words=["h"]), "does not know 'h'"),
]
BAD_VOCABULARIES = [
    (lambda c: c["words"].append("more"), "has 9 words, config.json says 8"),
    (lambda c: c["words"].pop(0), "begins with"),
    (set_word("a"), "the vocabulary contains 'a' twice"),
    (set_word(5), r"words\[5\]: expected a string, found 5"),
    (set_word("\x1b[2J"), "a control character"),
]
BAD_SETTINGS = [
    *(("config.json", *row) for row in BAD_CONFIGS),
    *(("preprocessor_config.json", *row) for row in BAD_PREPROCESSING),
    *(("generation_config.json", *row) for row in BAD_SEARCHES),
    *(("vocabulary.json", *row) for row in BAD_VOCABULARIES),
]


@pytest.mark.parametrize(("file", "change", "message"), BAD_SETTINGS)
def test_load_bad_setting_is_refused_by_path(directory, file, change, message, monkeypatch):
    # Users run without the type checks of the suite, which would refuse some values earlier.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    edit(directory / file, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(directory)
    assert file in str(caught.value) or "different models" in message


def test_load_weights_that_are_not_finite_are_refused(tmp_path):
    checkpoint = small_checkpoint()
    with torch.no_grad():
        checkpoint.model.decoder.readout.W_hr.bias[0] = float("nan")
    save_checkpoint(checkpoint, tmp_path / "model")
    with pytest.raises(
        CheckpointError, match=r"decoder\.readout\.W_hr\.bias has values that are not "
    ):
        load_checkpoint(tmp_path / "model")


@contextmanager
def no_more_memory_than(mebibytes):
    """Limit the address space to what is used now and some more."""
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
        (lambda c: c["decoder"].update(attention_size=10**5), "W_zh.weight has shape"),
        (lambda c: c["decoder"].update(attention_size=10**9), "different models"),
        (lambda c: c["sizes"].update(feature_size=10**9), "the decoder expects 1000000000"),
        (lambda c: c["decoder"].update(layers=10**9), "layers is 1000000000; it must be"),
        (lambda c: c["decoder"].update(layers=100), "lacks 297 tensors"),
        (lambda c: c["decoder"].update(hidden_size=10**5), "different models"),
        (lambda c: c["decoder"].update(cell="gru"), "different models"),
        (lambda c: c["encoder"].update(name="timm:convnext_xxlarge"), "the decoder expects"),
        (lambda c: c["encoder"].update(name="torchvision:vgg19"), "feature size 512"),
        (lambda c: c["encoder"].update(name="torchvision:regnet_y_128gf"), "the decoder expects"),
    ],
)
def test_load_compares_shapes_before_allocating_memory(tmp_path, change, message):
    checkpoint = small_checkpoint(core="attention")
    save_checkpoint(checkpoint, tmp_path / "model")
    load_checkpoint(tmp_path / "model")
    edit(tmp_path / "model" / "config.json", change)
    with no_more_memory_than(300), pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "model")


def test_load_large_image_size_allocates_no_memory(directory):
    edit(directory / "preprocessor_config.json", lambda c: c.update(size=4096))
    with no_more_memory_than(300):
        assert load_checkpoint(directory).model.encoder.positions == 128 * 128


@pytest.mark.parametrize("file", sorted(FILES - {"README.md"}))
def test_load_pipe_or_device_is_refused(directory, file):
    (directory / file).unlink()
    os.mkfifo(directory / file)
    with pytest.raises(CheckpointError, match=f"{file}': it is a pipe"):
        load_checkpoint(directory)
    (directory / file).unlink()
    (directory / file).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=f"{file}': it is a device"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    "name", ["timm:local-dir:/etc", "timm:hf-hub:timm/resnet18.a1_in1k", "timm:test_resnet./x"]
)
def test_load_encoder_of_folder_or_hub_is_refused(directory, name, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a network was created")

    edit(directory / "config.json", lambda c: c["encoder"].update(name=name))
    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(CheckpointError, match=r"config\.json: .* is not the name of a network"):
        load_checkpoint(directory)


def retyped(path, name, dtype):
    tensors = load_file(path)
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("decoder.readout.W_hr.weight", torch.int64, "torch.int64, expected torch.float32"),
        ("decoder.readout.W_hr.weight", torch.bool, "torch.bool, expected torch.float32"),
        ("decoder.readout.W_hr.weight", torch.float64, "F64, expected one of"),
        ("encoder.network.bn1.num_batches_tracked", torch.float32, "torch.float32, expected"),
    ],
)
def test_load_weights_of_other_dtype_are_refused_by_name(directory, name, dtype, message):
    retyped(directory / "model.safetensors", name, dtype)
    with pytest.raises(CheckpointError, match=f"safetensors: {name} has dtype {message}"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("timm:test_vit", torch.float16),
        ("timm:test_vit_relpos", torch.float16),  # computes indices, and does not save them
        ("timm:efficientformer_l1", torch.float32),  # saves them
        ("torchvision:regnet_y_400mf", torch.float32),  # its builder computes with tensors
        ("torchvision:squeezenet1_1", torch.float32),
        ("timm:tf_efficientnet_lite1", torch.float16),
    ],
)
def test_load_restores_encoders_of_all_kinds(tmp_path, name, dtype):
    encoder = Encoder(EncoderConfig(name, weights=None))
    options = DecoderConfig(embedding_size=8, hidden_size=8)
    vocabulary = Vocabulary.build([["a"]], min_count=1)
    model = CaptionModel(
        encoder, Decoder(options, vocabulary_size=5, feature_size=encoder.feature_size)
    ).eval()
    stored = {
        k: t.to(dtype).float() for k, t in model.state_dict().items() if t.is_floating_point()
    }
    model.load_state_dict(stored, strict=False)  # values as the file stores them
    save_checkpoint(Checkpoint(model, vocabulary, BeamSearch()), tmp_path / "model", dtype=dtype)
    random_state = torch.get_rng_state()
    loaded = load_checkpoint(tmp_path / "model").model
    assert torch.equal(torch.get_rng_state(), random_state)
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


def test_load_index_outside_its_table_is_refused(tmp_path):
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
    with pytest.raises(CheckpointError, match=f"{name} has values outside 0 to 48"):
        load_checkpoint(tmp_path / "model")


def test_load_run_directory_suggests_its_model(directory, tmp_path):
    with pytest.raises(CheckpointError, match=r"it has no config\.json\. Did you mean .*/model\?$"):
        load_checkpoint(tmp_path)  # like a training run, it has the model in "model"
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"it has no config\.json\. Copy the model again\.$"):
        load_checkpoint(tmp_path)


def test_load_absent_directory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no model directory"):
        load_checkpoint("x" * 5000)
    with pytest.raises(CheckpointError, match="there is no model directory"):
        load_checkpoint(tmp_path / "absent")


def test_save_refuses_folder_that_resembles_a_model(directory, tmp_path):
    """Models of other libraries have a config.json too, and people add notes to their models."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(OutputError, match="not replaced"):
        save_checkpoint(small_checkpoint(), other)
    assert (other / "config.json").read_text() == '{"model_type": "bert"}'
    (directory / "notes.txt").write_text("precious")
    with pytest.raises(OutputError, match="not replaced"):
        save_checkpoint(small_checkpoint(), directory)
    assert (directory / "notes.txt").read_text() == "precious"
