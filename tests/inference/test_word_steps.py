"""What the model knows at each word, compared with teacher forcing and with the search."""

import numpy as np
import pytest
import torch
from drawn_images import draw
from scipy.special import softmax
from small_captioner import small_checkpoint
from torch.nn.utils.rnn import pack_sequence

from captioning.errors import ConfigError
from captioning.inference.captioner import Captioner
from captioning.inference.word_steps import find_concepts, trace_words

IMAGE = draw(3)
WORDS = ("a", "red", "dog", "runs")


@torch.no_grad()
def teacher_forced(captioner, words):
    """Return the probabilities of the next word before each word, and before the end."""
    tokens = torch.tensor(captioner.checkpoint.vocabulary.encode(words)[:-1])
    pixels = captioner.read_pixels(IMAGE).unsqueeze(0)
    return softmax(captioner.checkpoint.model(pixels, pack_sequence([tokens])).numpy(), axis=1)


def test_steps_equal_teacher_forcing(captioner):
    expected = teacher_forced(captioner, WORDS)
    steps = trace_words(captioner, IMAGE, WORDS, top=5)
    vocabulary = captioner.checkpoint.vocabulary
    ids = vocabulary.encode(WORDS)[1:]
    assert [step.word for step in steps] == [*WORDS, ""]
    for step, row, token in zip(steps, expected, ids, strict=True):
        order = np.argsort(-row)[:5]
        names = [vocabulary.words[token] for token in order]
        assert [word or "<eos>" for word, _ in step.likely] == names
        np.testing.assert_allclose([p for _, p in step.likely], row[order], rtol=1e-4)
        np.testing.assert_allclose(step.probability, row[token], rtol=1e-4)


def test_steps_of_a_caption_multiply_to_its_probability(captioner):
    caption = captioner.caption(IMAGE).captions[0]
    steps = trace_words(captioner, IMAGE, caption.words)
    steps = steps if caption.finished else steps[:-1]
    assert np.log([step.probability for step in steps]).sum() == pytest.approx(
        caption.log_prob, abs=1e-4
    )


def test_steps_refuse_unknown_words(captioner):
    with pytest.raises(ConfigError, match="does not know the words"):
        trace_words(captioner, IMAGE, ("a", "zebra"))


def test_concepts_are_the_words_of_the_strongest_detectors():
    checkpoint = small_checkpoint(concepts=2)
    assert find_concepts(Captioner(small_checkpoint()), IMAGE) == []
    concepts, vocabulary = checkpoint.model.decoder.concepts, checkpoint.vocabulary
    concepts.words[:] = torch.tensor([vocabulary.id(word) for word in ("dog", "cat", "hat")])
    concepts.W_cv.zero_()
    concepts.b_c[:] = torch.tensor([0.0, 1.0, 2.0])
    found = find_concepts(Captioner(checkpoint), IMAGE)
    assert [word for word, _ in found] == ["hat", "cat"]
    np.testing.assert_allclose([s for _, s in found], 1 / (1 + np.exp([-2.0, -1.0])), rtol=1e-5)
