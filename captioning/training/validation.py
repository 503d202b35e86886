"""How good a student is on a split: captions it makes up, and how likely people's are to it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.utils.rnn import PackedSequence

from captioning.data.batches import CaptionDataset
from captioning.data.features import PictureRows
from captioning.data.vocabulary import Vocabulary, join_words
from captioning.decoding import SearchMethod, search
from captioning.phrases import Phrases
from captioning.training.loss import cross_entropy
from captioning.training.student import Student


@contextmanager
def _evaluating(student: Student) -> Iterator[None]:
    """Put a student into evaluation mode, and each of its parts back into its own afterwards."""
    parts = list(student.children())
    training = [part.training for part in parts]
    student.eval()
    try:
        yield
    finally:
        for part, was_training in zip(parts, training, strict=True):
            part.train(was_training)


@torch.inference_mode()
def caption_features(
    student: Student,
    cache: PictureRows,
    places: Sequence[int],
    vocabulary: Vocabulary,
    how: SearchMethod,
    *,
    phrases: Phrases | None = None,
    batch_size: int = 64,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Return the best caption of each of the cached pictures at ``places``.

    Args:
        student: Put into evaluation mode for the time of the call.
        cache: Features of the pictures.
        places: Their rows, in the order of the captions returned.
        vocabulary: The decoder's words.
        how: The search.
        phrases: What it may count.
        batch_size: Pictures searched together; it changes no caption.
        watch: Told how many pictures are done, of how many.
    """
    decoder = student.decoder
    banned = (vocabulary.pad, vocabulary.bos, vocabulary.unk)
    captions: list[str] = []
    with _evaluating(student):
        for start in range(0, len(places), batch_size):
            rows = torch.tensor(places[start : start + batch_size])
            features = student.look(cache, rows)
            found = search(
                decoder.step,
                decoder.start(features),
                how,
                bos=vocabulary.bos,
                eos=vocabulary.eos,
                banned=banned,
                agreement=None if phrases is None else phrases.of(features.vector),
            )
            captions += [join_words(vocabulary.decode(best[0].tokens)) for best in found]
            watch(len(captions), len(places))
    return captions


@torch.inference_mode()
def perplexity(
    student: Student,
    cache: PictureRows,
    captions: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int = 500,
) -> float:
    """Return the perplexity of people's captions: ``exp`` of the mean negative log-likelihood.

    Every word counts once, ``<eos>`` and ``<unk>`` among them, as in language modelling.

    Args:
        student: Put into evaluation mode for the time of the call.
        cache: Features of the pictures.
        captions: For each picture its captions, each from ``<bos>`` to ``<eos>``; none where it
            could not be read.
        batch_size: Captions that go through the network together.

    Raises:
        DataError: There is no caption at all.
    """
    total, words = 0.0, 0
    with _evaluating(student):
        for batch in CaptionDataset(captions).batches(batch_size, per_image=5):
            features = student.look(cache, batch.images)
            inputs: PackedSequence = batch.inputs.to(student.device)  # type: ignore[arg-type]
            logits = student.decoder(features, inputs, batch.image.to(student.device))
            result = cross_entropy(logits, batch.targets.to(student.device))
            total += result.nll.item() * result.words
            words += result.words
    return math.exp(total / words)
