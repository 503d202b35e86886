"""Which image does a sentence describe? Images ranked by what a decoder reconstructs of them.

Chen & Zitnick (2015), section 4: the image vector that a decoder with ``reconstruct`` has made up
from a sentence's words is compared with those of all images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from captioning.errors import ConfigError, DataError
from captioning.nn.decoder import Decoder
from captioning.nn.features import Features

_BATCH = 500


@dataclass(frozen=True)
class RetrievalScores:
    """How well the image of each sentence was found.

    Attributes:
        recall_1: Share of the sentences whose own image came first.
        recall_5: The same, among the first five.
        recall_10: The same, among the first ten.
        median_rank: Of the sentences' own images; 1 is best.
        sentences: How many there were.
        images: How many images were ranked.
    """

    recall_1: float
    recall_5: float
    recall_10: float
    median_rank: float
    sentences: int
    images: int

    def __str__(self) -> str:
        return (
            f"R@1 {100 * self.recall_1:.1f}   R@5 {100 * self.recall_5:.1f}   "
            f"R@10 {100 * self.recall_10:.1f}   median rank {self.median_rank:g}   "
            f"({self.sentences} sentences, {self.images} images)"
        )


@torch.inference_mode()
def reconstruct(decoder: Decoder, sentences: Sequence[Sequence[int]]) -> Float[Tensor, "N D"]:
    """Return the image vector that each sentence lets one expect.

    Args:
        decoder: With ``reconstruct``, in evaluation mode.
        sentences: Tokens of each, from ``<bos>`` to its last word, without ``<eos>``.

    Raises:
        ConfigError: The decoder does not reconstruct.
        DataError: A sentence is empty.
    """
    if not decoder.config.reconstruct:
        raise ConfigError(
            "This decoder does not reconstruct the image. Train one with --preset minds-eye."
        )
    if not all(sentences):
        raise DataError("A sentence has no token; each begins with <bos>.")
    device = decoder.embedding.weight.device
    found = []
    for start in range(0, len(sentences), _BATCH):
        some = sentences[start : start + _BATCH]
        tokens = pack_sequence(
            [torch.tensor(list(each), device=device) for each in some], enforce_sorted=False
        )
        blind = Features(torch.zeros(len(some), decoder.config.feature_size, device=device))
        every = decoder.teach(blind, tokens).reconstruction
        assert every is not None
        rows, lengths = pad_packed_sequence(tokens._replace(data=every), batch_first=True)
        found.append(rows[torch.arange(len(some), device=device), lengths.to(device) - 1])
    return torch.cat(found) if found else torch.zeros(0, decoder.config.feature_size)


def rank_images(
    reconstructed: Float[Tensor, "N D"], images: Float[Tensor, "I D"], own: Int[Tensor, " N"]
) -> Int[np.ndarray, " N"]:
    """Return the rank of each sentence's own image among all; 1 is best.

    Images are ranked by the cosine of both vectors, the mean of all images taken off: what all
    have in common tells none from another. Among equals the own image is
    last, and all come before it where its likeness is no number.

    Args:
        reconstructed: A vector for each sentence.
        images: The vector of each image.
        own: For each sentence, the place of its image.
    """
    mean = images.mean(0)
    wanted = torch.nn.functional.normalize((images - mean).double())
    made = torch.nn.functional.normalize((reconstructed - mean).double())
    likeness = made @ wanted.T
    mine = likeness.gather(1, own.unsqueeze(1))
    ranks: np.ndarray = (~(likeness < mine)).sum(1).cpu().numpy()
    return ranks


def retrieval_scores(ranks: Int[np.ndarray, " N"], images: int) -> RetrievalScores:
    """Return recall and median rank.

    Args:
        ranks: What :func:`rank_images` gives.
        images: How many images were ranked.

    Raises:
        DataError: There is no sentence.
    """
    if not len(ranks):
        raise DataError("There is no sentence to find an image for.")
    first, five, ten = (float((ranks <= k).mean()) for k in (1, 5, 10))
    return RetrievalScores(first, five, ten, float(np.median(ranks)), len(ranks), images)
