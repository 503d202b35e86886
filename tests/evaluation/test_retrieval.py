"""Image retrieval, compared with ranks counted by hand and with the equations in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from captioning.errors import ConfigError, DataError
from captioning.evaluation.retrieval import rank_images, reconstruct, retrieval_scores
from captioning.nn.decoder import Decoder
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.features import Features
from captioning.nn.presets import preset


def make_decoder(options):
    small = replace(options, embedding_size=5, hidden_size=8)
    made = Decoder(small, vocabulary_size=9, feature_size=6).eval()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return made


def test_reconstruction_equals_the_equations():
    model = make_decoder(preset("minds-eye"))
    sentences = [[1, 4, 5], [1, 7], [1, 8, 8, 4, 5, 6]]
    vectors = reconstruct(model, sentences)
    w = {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
    for sentence, row in zip(sentences, vectors, strict=True):
        u = np.zeros(model.config.hidden_size)
        for word in sentence:
            x = w["embedding.weight"][word]
            u = np.tanh(w["core.memory.W_xh"] @ x + w["core.memory.W_hh"] @ u + w["core.memory.b"])
        expected = w["core.W_uv.weight"] @ u + w["core.W_uv.bias"]
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-5)


def test_ranks_equal_those_counted_by_hand():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]) + 5
    sentences = torch.tensor([[2.0, 0.1], [-3.0, 0.2], [0.1, -1.0]]) + 5
    assert rank_images(sentences, images, torch.tensor([0, 0, 0])).tolist() == [1, 4, 2]
    assert rank_images(sentences, images, torch.tensor([1, 2, 3])).tolist() == [2, 1, 1]


def test_rank_of_equal_cosines_is_the_last():
    images = torch.eye(3)
    no_direction = images.mean(0, keepdim=True)
    assert rank_images(no_direction, images, torch.tensor([1])).tolist() == [3]


def test_rank_of_diverged_model_is_the_last():
    images, own = torch.eye(3), torch.arange(3)
    assert rank_images(torch.full((3, 3), torch.nan), images, own).tolist() == [3, 3, 3]


def test_recall_and_median_follow_from_the_ranks():
    scores = retrieval_scores(np.array([1, 2, 5, 6, 10, 11, 40, 100]), 200)
    assert (scores.recall_1, scores.recall_5, scores.recall_10) == (1 / 8, 3 / 8, 5 / 8)
    assert (scores.median_rank, scores.sentences, scores.images) == (8, 8, 200)
    assert str(scores).startswith("R@1 12.5   R@5 37.5   R@10 62.5   median rank 8 ")


def test_retrieval_refuses_unsuitable_input():
    with pytest.raises(ConfigError, match="--config minds-eye"):
        reconstruct(make_decoder(DecoderConfig()), [[1, 4]])
    with pytest.raises(DataError, match="begins with <bos>"):
        reconstruct(make_decoder(preset("minds-eye")), [[1, 4], []])
    with pytest.raises(DataError, match="no sentences"):
        retrieval_scores(np.array([], dtype=np.int64), 3)


def test_trained_decoder_ranks_own_image_first():
    from captioning.nn.losses import reconstruction_error

    torch.manual_seed(0)
    model = Decoder(
        DecoderConfig(cell="rnn", core="memory", embedding_size=16, hidden_size=24, dropout=0.0),
        vocabulary_size=9,
        feature_size=6,
    )
    sentences = [[1, 4, 5], [1, 5, 4], [1, 6, 7, 8], [1, 8]]
    images = torch.rand(4, 6)
    packed = torch.nn.utils.rnn.pack_sequence(
        [torch.tensor(each) for each in sentences], enforce_sorted=False
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        reconstruction = model.teacher_forcing(Features(images), packed).reconstruction
        loss = reconstruction_error(
            reconstruction, images[packed.sorted_indices], packed.batch_sizes.tolist()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vectors = reconstruct(model.eval(), sentences)
    assert rank_images(vectors, images, torch.arange(4)).tolist() == [1, 1, 1, 1]
