"""Concepts: words that the CNN recognizes in an image, as one more input of the decoder."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from captioning.nn.decoder_config import DecoderConfig, DecoderSizes

WORDS_PER_CLASS = 3
"""Maximum number of concepts that a class of the CNN stands for."""


class Concepts(nn.Module):
    """Strength of each concept in an image, and the vector s that the decoder reads.

    A concept c is a word of the vocabulary. It has two sources: a detector that was fitted to the
    captions of images, and the classes k on which the CNN was trained (Wu et al. 2016, section 3.1;
    You et al. 2016, section 3)::

        p_c = sigmoid(w_c v + b_c)                          detector
        p_k = softmax(W_k v + b_k)                          classes of ImageNet
        q_c = sum of the p_k that stand for c
        m_c = max(p_c - mean of p_c, q_c - mean of q_c, 0)
        s   = sum over the n largest m_c of  m_c E[c]

    The means over the training images are subtracted, because a concept that is equally strong in
    every image describes none of them. A word that no training image has can still enter the
    decoder, if it stands for a class of the CNN. The detector and the classifier are fitted before
    training, and then fixed
    (:mod:`captioning.training.concept_fitting`).

    Args:
        config: Configuration of the decoder, with n as ``concepts``.
        sizes: Number of concepts C, number of classes K, and D, size of v.
        gate_size: Size of the gates of the recurrent cell that reads s.
    """

    words: Tensor
    W_cv: Tensor
    b_c: Tensor
    mean: Tensor
    class_mean: Tensor
    W_kv: Tensor
    b_k: Tensor
    class_words: Tensor

    def __init__(self, config: DecoderConfig, sizes: DecoderSizes, gate_size: int) -> None:
        super().__init__()
        C, K, D, E = sizes.concepts, sizes.classes, sizes.feature_size, config.embedding_size
        self.count = config.concepts
        self.register_buffer("words", torch.zeros(C, dtype=torch.int64))
        self.register_buffer("W_cv", torch.zeros(C, D))
        self.register_buffer("b_c", torch.zeros(C))
        self.register_buffer("mean", torch.zeros(C))
        self.register_buffer("class_mean", torch.zeros(C))
        self.register_buffer("W_kv", torch.zeros(K, D))
        self.register_buffer("b_k", torch.zeros(K))
        # Concepts of each class; C stands for none.
        self.register_buffer("class_words", torch.full((K, WORDS_PER_CLASS), C))
        self.W_sh = nn.Linear(E, gate_size, bias=False)
        self.W_sr = nn.Linear(E, E, bias=False)
        nn.init.zeros_(self.W_sh.weight)  # a trained decoder behaves as before when it gets them
        nn.init.zeros_(self.W_sr.weight)

    def forward(self, v: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the strength m of each concept: the n largest of an image, and 0 for the others.

        No gradient flows to v.
        """
        v = v.detach().to(self.W_cv.dtype)
        with torch.no_grad(), torch.autocast(v.device.type, enabled=False):
            p = torch.sigmoid(nn.functional.linear(v, self.W_cv, self.b_c))
            strengths = torch.relu(p - self.mean)
            if len(self.b_k):
                strengths = torch.maximum(strengths, self.sum_classes(v) - self.class_mean)
            return keep_largest(strengths, self.count)

    def sum_classes(self, v: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return q, the probability of the classes that stand for each concept."""
        classes = nn.functional.linear(v, self.W_kv, self.b_k).softmax(1)
        sums = classes.new_zeros(len(classes), len(self.words) + 1)
        for column in self.class_words.T:
            sums.index_add_(1, column, classes)
        return sums[:, :-1]

    def embed(
        self, strengths: Float[Tensor, "B C"], embedding: Float[Tensor, "V E"]
    ) -> Float[Tensor, "B E"]:
        """Return s.

        Args:
            strengths: Strength of each concept.
            embedding: Word vectors of the decoder.
        """
        return strengths.to(embedding.dtype) @ embedding.index_select(0, self.words)


def keep_largest(strengths: Float[Tensor, "B C"], count: int) -> Float[Tensor, "B C"]:
    """Return the ``count`` largest values of each row, and 0 in place of the others."""
    top = strengths.topk(min(count, strengths.shape[1]), dim=1)
    return torch.zeros_like(strengths).scatter_(1, top.indices, top.values)


def concept_words(concepts: Concepts, strengths: Float[Tensor, " C"]) -> list[tuple[int, float]]:
    """Return ``(id of the word, strength)`` of the concepts of one image, strongest first."""
    order: Int[Tensor, " C"] = strengths.argsort(descending=True)
    found = [index for index in order.tolist() if strengths[index] > 0]
    return [(int(concepts.words[index]), float(strengths[index])) for index in found]
