"""More and fewer words for a decoder."""

import pytest
import torch

from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.extend_vocabulary import extend_vocabulary, keep_words
from captioning.nn.features import Features

OLD, NEW, UNK = 9, 13, 3


@pytest.mark.parametrize("tied", [True, False])
def test_extend_vocabulary_keeps_scores_of_old_words(tied):
    torch.manual_seed(0)
    config = DecoderConfig(
        embedding_size=8, hidden_size=8, attention_size=8, core="attention", tie_weights=tied
    )
    decoder = Decoder(config, vocabulary_size=OLD, feature_size=5).eval()
    torch.nn.init.normal_(decoder.W_rw.bias)
    larger = extend_vocabulary(decoder, NEW, like=UNK).eval()
    features = Features(torch.randn(2, 5), torch.randn(2, 4, 5))
    with torch.no_grad():
        before, _ = decoder.step(torch.tensor([1, 4]), decoder.start(features))
        after, _ = larger.step(torch.tensor([1, 4]), larger.start(features))
    # Only the normalization of the softmax changes.
    difference = before - after[:, :OLD]
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, OLD))
    assert not torch.equal(larger.embedding.weight[OLD], larger.embedding.weight[OLD + 1])
    ratio = (after[:, OLD:].exp().sum(1) / after[:, UNK].exp()).log()
    assert ratio.abs().max() < 0.5
    assert (larger.W_rw.weight is larger.embedding.weight) == tied


def test_extend_vocabulary_same_size_returns_decoder():
    decoder = Decoder(DecoderConfig(), vocabulary_size=OLD, feature_size=5)
    assert extend_vocabulary(decoder, OLD, like=UNK) is decoder


@pytest.mark.parametrize("tied", [True, False])
def test_keep_words_keeps_their_scores(tied):
    torch.manual_seed(0)
    config = DecoderConfig(
        embedding_size=8, hidden_size=8, attention_size=8, tie_weights=tied, concepts=2
    )
    decoder = Decoder(config, vocabulary_size=OLD, feature_size=5, concepts=2).eval()
    for weight in (decoder.W_rw.bias, decoder.concepts.W_sh.weight, decoder.concepts.W_cv):
        torch.nn.init.normal_(weight)
    decoder.concepts.words.copy_(torch.tensor([7, 5]))
    kept = [0, 1, 2, 3, 5, 7, 8]
    smaller = keep_words(decoder, kept).eval()
    features = Features(torch.randn(2, 5))
    with torch.no_grad():
        before, state = decoder.step(torch.tensor([1, 8]), decoder.start(features))
        before, _ = decoder.step(torch.tensor([5, 7]), state)
        after, state = smaller.step(torch.tensor([1, 6]), smaller.start(features))
        after, _ = smaller.step(torch.tensor([4, 5]), state)
    torch.testing.assert_close(before[:, kept].log_softmax(1), after)
    assert (smaller.W_rw.weight is smaller.embedding.weight) == tied


def test_keep_words_without_a_concept_raises_error():
    decoder = Decoder(DecoderConfig(concepts=1), vocabulary_size=OLD, feature_size=5, concepts=1)
    decoder.concepts.words.fill_(6)
    with pytest.raises(ValueError, match=r"words \[6\] are concepts"):
        keep_words(decoder, range(5))
