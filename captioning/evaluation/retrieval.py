"""Image retrieval: rank images by the vector that a decoder reconstructs from a sentence.

Chen & Zitnick (2015), Mind's eye: A recurrent visual representation for image caption generation,
section 4.
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

_SENTENCES_PER_BATCH = 500


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of image retrieval.

    Attributes:
        recall_1: Share of the sentences whose image has rank 1.
        recall_5: Share of the sentences whose image has rank 5 or better.
        recall_10: Share of the sentences whose image has rank 10 or better.
        median_rank: Median rank of the images; 1 is best.
        sentences: Number of sentences.
        images: Number of ranked images.
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
    """Return the image vector that the decoder reconstructs from each sentence.

    Args:
        decoder: A decoder with the core ``memory`` (Mind's Eye), in evaluation mode.
        sentences: Tokens of each sentence, from ``<bos>`` to the last word, without ``<eos>``.

    Raises:
        ConfigError: The decoder does not reconstruct the image.
        DataError: A sentence is empty.
    """
    if decoder.config.core != "memory":
        raise ConfigError(
            "the decoder does not reconstruct the image. Train one with captioning train --config "
            "minds-eye."
        )
    if not all(sentences):
        raise DataError("a sentence has no tokens; a sentence begins with <bos>.")
    device = decoder.embedding.weight.device
    vectors = []
    for start in range(0, len(sentences), _SENTENCES_PER_BATCH):
        batch = sentences[start : start + _SENTENCES_PER_BATCH]
        tokens = pack_sequence(
            [torch.tensor(list(sentence), device=device) for sentence in batch],
            enforce_sorted=False,
        )
        no_image = Features(torch.zeros(len(batch), decoder.sizes.feature_size, device=device))
        reconstruction = decoder.teacher_forcing(no_image, tokens).reconstruction
        assert reconstruction is not None
        padded, lengths = pad_packed_sequence(
            tokens._replace(data=reconstruction), batch_first=True
        )
        vectors.append(padded[torch.arange(len(batch), device=device), lengths.to(device) - 1])
    return torch.cat(vectors) if vectors else torch.zeros(0, decoder.sizes.feature_size)


def rank_images(
    reconstructed: Float[Tensor, "N D"], images: Float[Tensor, "I D"], own: Int[Tensor, " N"]
) -> Int[np.ndarray, " N"]:
    """Return the rank of each sentence's own image among all images; 1 is best.

    Images are ranked by the cosine of both vectors, after the mean of all images is subtracted
    from them. Of images with equal cosines, the sentence's own comes last. Its rank is the last one
    if its cosine is not a number.

    Args:
        reconstructed: A vector for each sentence.
        images: The vector of each image.
        own: Row of each sentence's image.
    """
    mean = images.mean(0)
    image_directions = torch.nn.functional.normalize((images - mean).double())
    sentence_directions = torch.nn.functional.normalize((reconstructed - mean).double())
    cosines = sentence_directions @ image_directions.T
    own_cosines = cosines.gather(1, own.unsqueeze(1))
    ranks: np.ndarray = (~(cosines < own_cosines)).sum(1).cpu().numpy()
    return ranks


def retrieval_scores(ranks: Int[np.ndarray, " N"], images: int) -> RetrievalScores:
    """Return recall and median rank.

    Args:
        ranks: Ranks from :func:`rank_images`.
        images: Number of ranked images.

    Raises:
        DataError: There are no sentences.
    """
    if not len(ranks):
        raise DataError("there are no sentences, so there are no retrieval scores.")
    recall_1, recall_5, recall_10 = (float((ranks <= k).mean()) for k in (1, 5, 10))
    return RetrievalScores(
        recall_1, recall_5, recall_10, float(np.median(ranks)), len(ranks), images
    )
