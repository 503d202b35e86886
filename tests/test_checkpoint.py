import json
import re
import shutil

import pytest
import torch

from captioning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captioning.data.preprocessing import Preprocessing
from captioning.data.vocabulary import Vocabulary
from captioning.decoding import BeamSearch
from captioning.errors import CheckpointError, OutputError
from captioning.nn.decoder import Decoder
from captioning.nn.encoder import Encoder, EncoderConfig
from captioning.nn.model import CaptionModel
from captioning.nn.options import DecoderOptions

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
    options = DecoderOptions(embedding_size=8, hidden_size=8, attention_size=8, **settings)
    shape = options.sized(vocabulary_size=len(vocabulary), feature_size=encoder.feature_size)
    model = CaptionModel(encoder, Decoder(shape)).eval()
    search = BeamSearch(width=2, length_penalty=0.7)
    return Checkpoint(model, vocabulary, search, {"name": "Small", "scores": {"BLEU-4": 0.1}})


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
@pytest.mark.parametrize("attention", [True, False])
def test_model_comes_back_whole(tmp_path, tie_weights, attention):
    checkpoint = small_checkpoint(tie_weights=tie_weights, attention=attention)
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
    weights = load_checkpoint(tmp_path / "half").model.decoder.cell.W_hh
    assert weights.dtype == torch.float32
    torch.testing.assert_close(
        weights, load_checkpoint(written).model.decoder.cell.W_hh, atol=1e-3, rtol=1e-3
    )


def test_older_model_is_replaced_and_other_folders_are_left_alone(directory, tmp_path):
    checkpoint = small_checkpoint()
    save_checkpoint(checkpoint, directory)
    assert torch.equal(
        load_checkpoint(directory).model.decoder.cell.W_hh, checkpoint.model.decoder.cell.W_hh
    )
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(OutputError, match="is no model directory"):
        save_checkpoint(checkpoint, photos)
    assert (photos / "holiday.jpg").read_bytes() == b"dear"


def test_failed_write_leaves_the_older_model(directory, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    before = load_checkpoint(directory).model.decoder.cell.W_hh
    monkeypatch.setattr("captioning.checkpoint.save_file", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(small_checkpoint(), directory)
    assert torch.equal(load_checkpoint(directory).model.decoder.cell.W_hh, before)
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
        ("generation_config.json", lambda c: c.update(method="beem_search"), "Did you mean"),
        ("preprocessor_config.json", lambda c: c.update(size=0), "size is 0"),
        ("preprocessor_config.json", lambda c: c.pop("mean"), "lacks mean"),
    ],
)
def test_parts_that_do_not_fit_are_said(directory, file, change, message):
    edit(directory / file, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(directory)


def test_model_written_before_a_setting_was_there_loads_as_it_was(directory):
    path = directory / "config.json"
    content = json.loads(path.read_text())
    for name in ("top_down", "recurrent_dropout"):
        del content["decoder"][name]
    path.write_text(json.dumps(content))
    config = load_checkpoint(directory).model.decoder.config
    assert (config.top_down, config.recurrent_dropout) == (False, 0.0)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    checkpoint = small_checkpoint()
    with torch.no_grad():
        checkpoint.model.decoder.W_hr.bias[0] = float("nan")
    save_checkpoint(checkpoint, tmp_path / "model")
    with pytest.raises(CheckpointError, match="no finite numbers"):
        load_checkpoint(tmp_path / "model")


def test_absent_directory_is_said(tmp_path):
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
