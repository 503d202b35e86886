"""Config files of training runs, and the recipes in the package."""

from dataclasses import replace

import pytest
from small_run import TINY, config, initialize

from captioning.checkpoint import load_checkpoint
from captioning.cli.main import main
from captioning.cli.train import parse
from captioning.errors import ConfigError
from captioning.nn.presets import PRESETS, preset
from captioning.training.config import RunConfig
from captioning.training.recipes import read_run_file, recipe_names, recipe_path
from captioning.training.run import train
from captioning.training.run_directory import write_settings

SIZES = {"embedding_size": 16, "hidden_size": 16, "attention_size": 16}
PAPERS = {"att2in", "show-and-tell", "up-down", "default-model"}


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_trains_with_stand_in_encoder(name, tmp_path):
    stages = parse(
        [
            *("--config", name, "--data", f"coco:{TINY}", "--output", str(tmp_path / "run")),
            *("encoder={name: timm:test_resnet, weights: null, image_size: 64}",),
            *(f"decoder.{size}={value}" for size, value in SIZES.items()),
            *("training.max_steps=1", "min_count=2", "search_images=0", "workers=0", "device=cpu"),
            *(
                ["stages.fine-tuning.training.fine_tune_stages=2"]
                if name == "default-model"
                else []
            ),
        ]
    )
    for stage in stages:
        result = train(stage.run_config())
    (*_, last) = read_run_file(name).stages.values()
    decoder = last["decoder"]
    assert load_checkpoint(result.model_dir).model.decoder.config == replace(decoder, **SIZES)


@pytest.mark.parametrize("name", PRESETS)
def test_recipe_has_the_decoder_of_its_preset(name):
    (decoder, *others) = [stage["decoder"] for stage in read_run_file(name).stages.values()]
    assert all(other == decoder for other in others)
    free = (*SIZES, "dropout")
    assert replace(preset(name), **{size: getattr(decoder, size) for size in free}) == decoder


def test_recipes_are_described_with_scores():
    assert PAPERS | set(PRESETS) == set(recipe_names())
    for name in recipe_names():
        recipe = read_run_file(name).recipe
        assert recipe.title
        assert recipe.paper
        assert any(score.bleu_4 for score in recipe.scores)


def test_settings_of_run_are_read_as_config(tmp_path):
    run = initialize(config(tmp_path, hflip=False, precision="bfloat16"), tmp_path / "model")
    run = replace(run, data_weights=(0.5,), cache=tmp_path / "features")
    write_settings(run, tmp_path)
    file = read_run_file(str(tmp_path / "settings.json"))
    assert RunConfig(**file.stages[""]) == run


def test_recipe_shown_and_changed_is_a_config(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["recipes", "show", "up-down"])
    assert caught.value.code == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out.replace("1000", "800"))
    mine, theirs = read_run_file(str(path)), read_run_file("up-down")
    assert mine.stages["self-critical"]["decoder"].hidden_size == 800
    assert mine.recipe == theirs.recipe
    assert mine.stages["self-critical"]["training"] == theirs.stages["self-critical"]["training"]


def test_recipes_command_lists_names_and_marks_scores(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["recipes"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in recipe_names():
        assert f"{name}: {read_run_file(name).recipe.title}\n" in text
    assert "published: BLEU-4 33.3, CIDEr 111.4 on COCO, Karpathy test (self-critical)\n" in text
    assert "measured: BLEU-4 21.5, CIDEr 53.5 on Flickr8k dev (beam 5)\n" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epohs: 3}", r"training\.epohs: unknown field\. Did you mean 'epochs'\?"),
        ("stages: {a: {encodr: {}}}", r"stages\.a\.encodr: unknown field\. Did you mean"),
        ("recipe: {titel: x}", "recipe: missing field title"),
        (
            "training: {epochs: 1.5}",
            r"training\.epochs: expected an integer, found 1\.5\. Correct it",
        ),
        ("training: {seed: 1}\ntraining: {seed: 2}", r'line 2: found duplicate key "training"'),
        ("data: [flickr8k:x", "line 1: expected ',' or ']'"),
        ("decoder: {cell: grue}", "cell: expected one of rnn, relu_rnn, gru, lstm"),
        ("- 1", "expected lines such as"),
        ("stages: {../x: {}}", "is not a name for a directory"),
        ("stages: 5", "stages: expected names with their settings, .* found 5"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("\ud800", "cannot read|not YAML"),
    ],
)
def test_config_file_with_problem_names_its_place(text, message, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text, errors="surrogatepass")
    with pytest.raises(ConfigError, match=message) as caught:
        read_run_file(str(path))
    assert str(path) in str(caught.value)


def test_config_file_absent_or_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no file and no recipe .* Did you mean 'up-down'"):
        read_run_file("up-dwn")
    with pytest.raises(ConfigError, match="it is a folder"):
        read_run_file(str(tmp_path))
    with pytest.raises(ConfigError, match="Did you mean 'm-rnn'"):
        recipe_path("mrnn")
