"""Pretrained word vectors as the initial word embedding of a decoder."""

from pathlib import Path

import numpy as np
import torch

from captioning.errors import DataError
from captioning.messages import format_count
from captioning.nn.decoder import Decoder
from captioning.text.vocabulary import SPECIALS, Vocabulary
from captioning.text.word_vectors import read_word_vectors
from captioning.training.callback import TrainingCallback


@torch.no_grad()
def load_embedding(
    decoder: Decoder, vocabulary: Vocabulary, path: Path, callback: TrainingCallback
) -> None:
    """Replace the embedding of each word that a file has a vector for, and report their number.

    All vectors are multiplied by one number, so that their values are as large as the random ones
    of the other words. GloVe's are about six times as large: as tied output weights they would
    make the first predictions extreme.

    Raises:
        DataError: The file cannot be used, or has none of the words.
    """
    words, size = vocabulary.words[len(SPECIALS) :], decoder.config.embedding_size
    vectors = read_word_vectors(path, words, size)
    if not vectors:
        raise DataError(
            f"'{path}' has none of the {len(words):,} words of the captions, such as {words[0]!r}. "
            "Use word vectors of the same language, with lower-case words."
        )
    rows = np.stack(list(vectors.values()))
    rows *= size**-0.5 / max(float(np.sqrt(np.square(rows).mean())), 1e-12)
    weight = decoder.embedding.weight
    ids = torch.tensor([vocabulary.id(word) for word in vectors], device=weight.device)
    weight[ids] = torch.from_numpy(rows).to(weight)
    callback.on_message(
        f"Word vectors: {path.name} has {len(vectors):,} of {format_count(len(words), 'word')}."
    )
