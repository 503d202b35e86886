"""What compare prints."""

import json

import pytest

from captioning.cli.main import main


def test_which_file_is_a_and_which_is_b_stands_above_the_table(tmp_path, capsys):
    for name, caption in (("ours", "a dog runs"), ("theirs", "a cat"), ("people", "a dog runs")):
        entries = [{"image_id": image, "caption": caption} for image in (1, 2)]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    files = [str(tmp_path / f"{name}.json") for name in ("ours", "theirs", "people")]
    with pytest.raises(SystemExit) as caught:
        main(["compare", *files, "--samples", "5"])
    assert caught.value.code == 0
    first, second, empty, head = capsys.readouterr().out.splitlines()[:4]
    assert (first, second, empty) == (f"A: {files[0]}", f"B: {files[1]}", "")
    assert head.split()[:3] == ["A", "B", "A-B"]
