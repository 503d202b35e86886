"""Word dropout and scheduled sampling."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from captioning.training.input_noise import apply_scheduled_sampling, apply_word_dropout

BOS, UNK, V = 1, 3, 9
CAPTIONS = [[1, 5, 6], [1, 4, 5, 6, 7], [1, 8]]


def packed(captions):
    return pack_sequence([torch.tensor(c) for c in captions], enforce_sorted=False)


def unpacked(tokens):
    rows, lengths = pad_packed_sequence(tokens, batch_first=True)
    return [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]


def certain_logits(tokens, word_after):
    """Logits, in packed order, of a decoder that is certain of the word after each word."""
    after = torch.tensor([word_after[int(token)] for token in tokens.data])
    return 1e4 * torch.nn.functional.one_hot(after, V).float()


def test_word_dropout_keeps_bos_and_drops_at_its_rate():
    torch.manual_seed(0)
    captions = [[BOS, *[7] * 50]] * 100
    found = unpacked(apply_word_dropout(packed(captions), 0.3, unk=UNK, bos=BOS))
    assert all(caption[0] == BOS for caption in found)
    words = [word for caption in found for word in caption[1:]]
    assert set(words) == {7, UNK}
    assert words.count(UNK) / len(words) == pytest.approx(0.3, abs=0.03)


def test_scheduled_sampling_puts_predictions_in_their_place():
    tokens = packed(CAPTIONS)
    word_after = {1: 4, 4: 6, 5: 7, 6: 8, 7: 4, 8: 5}
    found = unpacked(apply_scheduled_sampling(tokens, certain_logits(tokens, word_after), 1.0))
    assert found == [[c[0], *(word_after[word] for word in c[:-1])] for c in CAPTIONS]
    assert (
        unpacked(apply_scheduled_sampling(tokens, certain_logits(tokens, word_after), 0.0))
        == CAPTIONS
    )


def test_scheduled_sampling_follows_allowed_probabilities():
    torch.manual_seed(0)
    tokens = packed([[BOS, *[7] * 40]] * 50)
    logits = torch.zeros(len(tokens.data), V)
    logits[:, 4] = 1.0
    found = unpacked(apply_scheduled_sampling(tokens, logits, 0.5, excluded=(0, 1, 3)))
    words = [word for caption in found for word in caption[1:]]
    assert set(words) == {2, 4, 5, 6, 7, 8}
    mass = 5 + torch.e
    assert words.count(4) / len(words) == pytest.approx(0.5 * torch.e / mass, abs=0.03)
    assert words.count(5) / len(words) == pytest.approx(0.5 / mass, abs=0.02)
