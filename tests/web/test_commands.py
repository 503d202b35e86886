"""Wrong usage of `captioning web` and `captioning serve`: refused before the model is loaded."""

import pytest

from captioning.cli.main import main
from captioning.inference.captioner import Captioner
from captioning.web import server


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    monkeypatch.setattr(Captioner, "from_pretrained", lambda *_, **__: 1 / 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("web {}/missing", "missing' is not a folder. Check the path."),
        ("web {}", "no images found in '{}'.\nSkipped 1 subfolder. Add --recursive"),
        ("web --recursive", "--output and --recursive need a folder. Name one."),
        ("serve --port 99999", "--port is 99999; it must be from 0 to 65,535."),
        ("serve --max-body 0", "--max-body is 0.0; it must be above 0 and at most 1,000."),
        ("serve --batch-size 0", "--batch-size is 0; it must be at least 1."),
        ("serve --host no.such.host.invalid", "cannot listen on no.such.host.invalid:8080"),
    ],
)
def test_wrong_usage_is_explained(words, message, tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(words.format(tmp_path).split())
    assert stop.value.code == 2
    assert message.format(tmp_path) in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(server, "PACKAGES", ("starlette", "no_such_package"))
    with pytest.raises(SystemExit) as stop:
        main(["serve"])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert "the web server needs no_such_package. Run pip install no_such_package" in text
