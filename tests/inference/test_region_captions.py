"""Captions of models that read external features; such models refuse images."""

import numpy as np
import pytest
import torch
from external_features import D, external_checkpoint, make_regions

from captioning.checkpoint import load_checkpoint, save_checkpoint
from captioning.cli.info import describe
from captioning.cli.main import main
from captioning.decoding import Sampling
from captioning.errors import ConfigError
from captioning.inference.captioner import Captioner
from captioning.inference.region_captions import caption_regions

REGIONS = [make_regions(seed, count) for seed, count in enumerate((2, 6, 1, 4))]


@pytest.fixture(scope="module")
def external():
    return Captioner(external_checkpoint())


@pytest.fixture(scope="module")
def external_model(external, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "external"
    external.save_pretrained(directory)
    return directory


SEARCHES = {"beam": None, "sampling": Sampling(n=3, max_length=8, temperature=4.0)}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_captions_do_not_depend_on_the_batch(external, search):
    together = caption_regions(external, REGIONS, search=search)
    assert len({result.text for result in together}) > 1
    for result, regions in zip(together, REGIONS, strict=True):
        (alone,) = caption_regions(external, [regions], search=search)
        assert [each.text for each in result.captions] == [each.text for each in alone.captions]
        assert result.log_prob == pytest.approx(alone.log_prob, abs=1e-4)


def test_tensors_give_the_captions_of_arrays(external):
    regions = [torch.tensor(array).bfloat16().requires_grad_() for array in REGIONS]
    arrays = [tensor.detach().float().numpy() for tensor in regions]
    found, expected = (caption_regions(external, each) for each in (regions, arrays))
    assert [result.text for result in found] == [result.text for result in expected]


def test_unusable_array_gives_a_result_with_an_error(external):
    regions = [REGIONS[0], np.zeros((2, D + 1)), [[1.0], [2.0, 3.0]], REGIONS[1]]
    results = caption_regions(external, regions, batch_size=2)
    assert [result.ok for result in results] == [True, False, False, True]
    assert "image 1 has 13 values per region" in results[1].error
    assert [results[i].text for i in (0, 3)] == [
        result.text for result in caption_regions(external, REGIONS[:2])
    ]


def test_saved_model_gives_equal_captions(external, external_model):
    assert not (external_model / "preprocessor_config.json").exists()
    loaded = Captioner(load_checkpoint(external_model))
    found, expected = (caption_regions(each, REGIONS) for each in (loaded, external))
    assert [r.log_prob for r in found] == [r.log_prob for r in expected]
    assert loaded.checkpoint.model.encoder.feature_size == D


def test_saved_model_says_that_it_reads_features(external_model):
    card = (external_model / "README.md").read_text()
    assert f"reads external features, {D} values per region" in card
    assert "caption_regions(captioner, regions)" in card
    facts = describe(external_model)
    assert facts["encoder"]["feature size"] == D
    assert "no CNN" in facts["encoder"]["name"]
    assert facts["backend"]["auto"].startswith("torch")


def test_loaded_model_uses_torch_without_a_warning(external_model, caplog):
    captioner = Captioner.from_pretrained(external_model, device="cpu")
    assert captioner.backend.backend == "torch"
    assert not caplog.records


def test_model_refuses_images(external, images):
    for call in (external.caption, external, external.read_pixels):
        with pytest.raises(ConfigError, match=r"reads features, not images.* evaluate --features"):
            call(images[0])
    with pytest.raises(ConfigError, match="reads features, not images"):
        list(external.caption_files(images))


@pytest.mark.parametrize("command", ["caption", "calibrate"])
def test_command_with_images_is_refused(external_model, images, tmp_path, capsys, command):
    output = tmp_path / "captions.jsonl"
    words = {
        "caption": [images[0], "--model", external_model, "-o", output],
        "calibrate": [external_model, "--images", images[0]],
    }[command]
    with pytest.raises(SystemExit) as caught:
        main([command, *map(str, words)])
    assert caught.value.code == 2
    assert "reads features, not images" in capsys.readouterr().err
    assert not output.exists()


def test_model_with_cnn_refuses_regions(captioner):
    with pytest.raises(ConfigError, match="reads images, not external features"):
        caption_regions(captioner, REGIONS)


def test_ensemble_of_other_features_is_refused(external, captioner):
    both = caption_regions(Captioner(external.checkpoint, others=[external.checkpoint]), REGIONS)
    assert [r.text for r in both] == [r.text for r in caption_regions(external, REGIONS)]
    with pytest.raises(ConfigError, match="external features of 12 values"):
        Captioner(captioner.checkpoint, others=[external.checkpoint])


def test_changed_feature_size_is_refused(external, tmp_path):
    save_checkpoint(external.checkpoint, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace(f'"feature_size": {D}', '"feature_size": 13'))
    with pytest.raises(ValueError, match="expected"):
        load_checkpoint(tmp_path / "model")
