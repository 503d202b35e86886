"""Help and errors of the commands: examples, and flags instead of the names of config fields."""

import importlib
import re

import pytest

from captioning.cli.features import FeaturesConfig
from captioning.cli.help_texts import config_type, map_flags, name_flags
from captioning.cli.main import COMMANDS, main
from captioning.training.config import RunConfig


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_flags_instead_of_fields(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    text = capsys.readouterr().out
    examples = re.findall(rf"^    captioning {command}\b", text, re.MULTILINE)
    assert len(examples) >= 3
    module = importlib.import_module(f"captioning.cli.{command.replace(' ', '_')}")
    config = config_type(module.run)
    for name, flag in map_flags(config).items():
        assert flag in text or name not in getattr(config, "SHOWN", (name,))
        if "_" in name:
            assert not re.search(rf"\b{name}\b", text)


def test_features_help_lists_only_flags_with_an_effect(capsys):
    with pytest.raises(SystemExit):
        main(["features", "--training.epochs", "3", "--help"])
    listed = set(re.findall(r"^. (--[a-z]\S+)", capsys.readouterr().out, re.MULTILINE))
    flags = map_flags(FeaturesConfig)
    assert {flags[name] for name in FeaturesConfig.SHOWN} == listed


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("seed is -1. Use 0 or more.", "--training.seed is -1. Use 0 or more."),
        ("Remove text_data.", "Remove --text-data."),
        ("samples is 1", "--training.self-critical.samples is 1"),
        ("training.epochs was 5 and is now 6", "--training.epochs was 5 and is now 6"),
        ("cannot read 'min_count/seed.txt'", "cannot read 'min_count/seed.txt'"),
        ("the output is empty", "the output is empty"),
        ("If the output was copied", "If the output was copied"),
    ],
)
def test_message_with_field_names_gets_flags(message, expected):
    assert name_flags(message, RunConfig) == expected
