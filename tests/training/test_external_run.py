"""Training and evaluation on external features, without any image."""

import re
from dataclasses import replace

import pytest
from external_features import write_features, write_karpathy
from small_run import Killed, config, kill_after, load_weights

from captioning.checkpoint import load_checkpoint
from captioning.decoding import Greedy
from captioning.errors import ConfigError, DataError
from captioning.evaluation.evaluate import EvaluationConfig, evaluate
from captioning.nn.encoder_config import EncoderConfig
from captioning.training.callback import TrainingCallback
from captioning.training.run import train

pytestmark = pytest.mark.xdist_group("external")  # one process trains the shared run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Name of the data, and features: one of both splits is missing, one of both is damaged."""
    folder = tmp_path_factory.mktemp("external")
    name, ids = write_karpathy(folder)
    features = write_features(folder / "cocobu_att", [*ids["train"], *ids["val"]])
    for numbers in ids.values():
        (features / f"{numbers[0]}.npz").unlink()
        (features / f"{numbers[1]}.npz").write_bytes(b"damaged")
    return name, features, ids


def external_run(output, data, **training):
    run = config(output, **training)
    decoder = replace(run.decoder, core="attention")
    return replace(run, data=(data[0],), features=data[1], encoder=EncoderConfig(), decoder=decoder)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    messages = []
    output = tmp_path_factory.mktemp("runs") / "external"
    run = external_run(output, data, epochs=2, doubly_stochastic_weight=0.5)
    result = train(run, TrainingCallback(on_message=messages.append))
    return result, messages


def test_run_reports_missing_and_damaged_features(trained, data):
    _, messages = trained
    skipped = [message for message in messages if message.startswith("Skipping ")]
    assert len(skipped) == 3  # missing in both splits, and damaged in validation
    assert sum("no features of " in message for message in skipped) == 2
    zeros = [message for message in messages if "damaged features with zeros" in message]
    assert len(zeros) == 1
    assert f"{data[2]['train'][1]}.npz" in zeros[0]
    assert any("without flipped views" in message for message in messages)


def test_evaluation_equals_validation_of_the_run(trained, data):
    name, features, ids = data
    result, _ = trained
    options = EvaluationConfig(features=features, batch_size=3)
    found = evaluate(result.model_dir, name, search=Greedy(), config=options)
    assert found.scores.cider == pytest.approx(result.scores["CIDEr"], abs=1e-6)
    assert sorted(found.errors) == sorted(ids["val"][:2])
    assert set(found.captions) == set(ids["val"][2:])
    assert "features:cocobu_att" in found.signature


def test_interrupted_run_resumes_with_equal_weights(trained, data, tmp_path):
    run = external_run(tmp_path / "run", data, epochs=2, doubly_stochastic_weight=0.5)
    run = replace(run, workers=2)
    with pytest.raises(Killed):
        train(run, kill_after(13))
    resumed = train(run)
    assert resumed.resumed
    expected, found = load_weights(trained[0].model_dir), load_weights(resumed.model_dir)
    assert all(expected[name].equal(found[name]) for name in expected)


def test_self_critical_training_uses_the_features(trained, data, tmp_path):
    result, _ = trained
    run = external_run(tmp_path / "run", data, epochs=1, max_steps=2)
    training = replace(run.training, objective="self_critical")
    run = replace(run, init_from=result.model_dir, training=training, search_images=4)
    messages = []
    tuned = train(run, TrainingCallback(on_message=messages.append))
    assert any(re.search(r"Epoch 1: .*reward 0\.\d+", message) for message in messages)
    assert any(message.startswith("Selected search") for message in messages)
    assert load_checkpoint(tuned.model_dir).model.encoder.config.name == "features"


def test_model_and_features_that_do_not_fit_are_refused(trained, data, model, tmp_path):
    name, features, _ = data
    result, _ = trained
    with pytest.raises(ConfigError, match="reads features, not images"):
        evaluate(result.model_dir, name)
    with pytest.raises(ConfigError, match="reads images, not external features"):
        evaluate(model, name, config=EvaluationConfig(features=features))
    run = replace(config(tmp_path / "run"), init_from=result.model_dir)
    with pytest.raises(ConfigError, match="reads features, not images"):
        train(run)
    other = write_features(tmp_path / "other", [])
    with pytest.raises(DataError, match="no features of the 8 images"):
        evaluate(result.model_dir, name, config=EvaluationConfig(features=other))


@pytest.mark.parametrize(
    ("changes", "training", "reason"),
    [
        ({"encoder": EncoderConfig("timm:resnet18")}, {}, "another encoder"),
        ({}, {"fine_tune_stages": 1}, "fine_tune_stages"),
        ({}, {"online_augmentation": True}, "online_augmentation"),
        ({"features": None, "encoder": EncoderConfig("features")}, {}, "as features"),
    ],
)
def test_setting_that_needs_images_is_refused(data, tmp_path, changes, training, reason):
    with pytest.raises(ConfigError, match=reason):
        replace(external_run(tmp_path / "run", data, **training), **changes)
