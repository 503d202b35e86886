"""Ranking images for a sentence, against ranks counted by hand and a decoder that is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from captioning.errors import ConfigError, DataError
from captioning.evaluation.retrieval import rank_images, reconstruct, retrieval_scores
from captioning.nn import Decoder, DecoderOptions, Features
from captioning.nn.presets import preset


def decoder(options: DecoderOptions) -> Decoder:
    small = replace(options, embedding_size=5, hidden_size=8)
    made = Decoder(small.sized(vocabulary_size=9, feature_size=6)).eval()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return made


def test_a_sentence_gives_what_the_memory_holds_after_its_last_word():
    model = decoder(preset("minds-eye"))
    sentences = [[1, 4, 5], [1, 7], [1, 8, 8, 4, 5, 6]]
    found = reconstruct(model, sentences)
    w = {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
    for sentence, row in zip(sentences, found, strict=True):
        u = np.zeros(model.config.hidden_size)
        for word in sentence:
            x = w["embedding.weight"][word]
            u = np.tanh(w["memory.W_xh"] @ x + w["memory.W_hh"] @ u + w["memory.b"])
        expected = w["W_uv.weight"] @ u + w["W_uv.bias"]
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-5)


def test_ranks_are_those_counted_by_hand():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]) + 5
    sentences = torch.tensor([[2.0, 0.1], [-3.0, 0.2], [0.1, -1.0]]) + 5
    assert rank_images(sentences, images, torch.tensor([0, 0, 0])).tolist() == [1, 4, 2]
    assert rank_images(sentences, images, torch.tensor([1, 2, 3])).tolist() == [2, 1, 1]


def test_a_sentence_that_says_nothing_comes_last_among_equals():
    images = torch.eye(3)
    nothing = images.mean(0, keepdim=True)
    assert rank_images(nothing, images, torch.tensor([1])).tolist() == [3]


def test_a_model_that_has_diverged_finds_nothing():
    images, own = torch.eye(3), torch.arange(3)
    assert rank_images(torch.full((3, 3), torch.nan), images, own).tolist() == [3, 3, 3]


def test_recall_and_median_are_those_of_the_ranks():
    scores = retrieval_scores(np.array([1, 2, 5, 6, 10, 11, 40, 100]), 200)
    assert (scores.recall_1, scores.recall_5, scores.recall_10) == (1 / 8, 3 / 8, 5 / 8)
    assert (scores.median_rank, scores.sentences, scores.images) == (8, 8, 200)
    assert str(scores).startswith("R@1 12.5   R@5 37.5   R@10 62.5   median rank 8 ")


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ConfigError, match="--preset minds-eye"):
        reconstruct(decoder(DecoderOptions()), [[1, 4]])
    with pytest.raises(DataError, match="begins with <bos>"):
        reconstruct(decoder(preset("minds-eye")), [[1, 4], []])
    with pytest.raises(DataError, match="no sentence"):
        retrieval_scores(np.array([], dtype=np.int64), 3)


def test_training_makes_a_sentence_find_its_image():
    from captioning.nn.losses import reconstruction_error

    torch.manual_seed(0)
    model = Decoder(
        DecoderOptions(
            cell="rnn", reconstruct=True, embedding_size=16, hidden_size=24, dropout=0.0
        ).sized(vocabulary_size=9, feature_size=6)
    )
    sentences = [[1, 4, 5], [1, 5, 4], [1, 6, 7, 8], [1, 8]]
    images = torch.rand(4, 6)
    packed = torch.nn.utils.rnn.pack_sequence(
        [torch.tensor(each) for each in sentences], enforce_sorted=False
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        found = model.teach(Features(images), packed).reconstruction
        loss = reconstruction_error(
            found, images[packed.sorted_indices], packed.batch_sizes.tolist()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = reconstruct(model.eval(), sentences)
    assert rank_images(made, images, torch.arange(4)).tolist() == [1, 1, 1, 1]
