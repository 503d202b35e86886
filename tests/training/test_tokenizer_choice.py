import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_run import TINY, config, initialize

from captioning import evaluate
from captioning.errors import ConfigError
from captioning.evaluation.evaluate import EvaluationConfig
from captioning.training.callback import TrainingCallback
from captioning.training.run import train


@pytest.fixture
def chinese(tmp_path):
    """A run on data/tiny with Chinese characters instead of letters."""
    for split in ("train", "val"):
        content = json.loads((TINY / "annotations" / f"captions_{split}.json").read_text())
        for entry in content["annotations"]:
            letters = (c for c in entry["caption"].lower() if c.isalpha())
            entry["caption"] = "".join(chr(0x4E00 + ord(letter)) for letter in letters) + "。"
        (tmp_path / f"zh_{split}.json").write_text(json.dumps(content))
    data = f"coco:{tmp_path / 'zh_{split}.json'}@{TINY / 'images'}"
    run = config(tmp_path / "run", epochs=1, save_every=100)
    return replace(run, data=(data,), min_count=1)


def run_with_messages(run):
    messages = []
    result = train(run, TrainingCallback(on_message=messages.append))
    return result, messages


def read_sentences(run, split):
    path = run.data[0].removeprefix("coco:").partition("@")[0].format(split=split)
    return [entry["caption"] for entry in json.loads(Path(path).read_text())["annotations"]]


def test_train_unsplit_captions_is_warned_of(chinese):
    _, messages = run_with_messages(chinese)
    assert any("look like one word each" in message for message in messages)
    # The tokenizer splits each caption into the sentence and its full stop.
    known = set(read_sentences(chinese, "train"))
    unknown = [sentence not in known for sentence in read_sentences(chinese, "val")]
    share = 100 * sum(unknown) / (2 * len(unknown))
    assert (
        "Unknown words: 0.00 % of the training captions, "
        f"{share:.2f} % of the validation captions." in messages
    )


def test_train_characters_are_used_for_scores(chinese):
    result, messages = run_with_messages(replace(chinese, tokenizer="characters"))
    assert not any("look like one word each" in message for message in messages)
    found = evaluate(result.model_dir, chinese.data[0], config=EvaluationConfig(workers=0))
    assert "|tok:characters-lower-nopunct|" in found.signature
    assert found.scores.bleu_1 > 0.05
    other = initialize(replace(chinese, tokenizer="whitespace"), result.model_dir)
    with pytest.raises(ConfigError, match=r"'whitespace', but the initial model .* 'characters'"):
        train(replace(other, output=chinese.output.with_name("other")))
