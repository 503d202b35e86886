"""Free-running captions of a split, from cached features."""

from collections.abc import Callable, Sequence

import torch

from captioning.data.features import FeatureCache, JoinedCaches
from captioning.data.vocabulary import Vocabulary, join_words
from captioning.decoding import SearchMethod, search
from captioning.training.student import Student


@torch.inference_mode()
def caption_features(
    student: Student,
    cache: FeatureCache | JoinedCaches,
    places: Sequence[int],
    vocabulary: Vocabulary,
    how: SearchMethod,
    *,
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
        batch_size: Pictures searched together; it changes no caption.
        watch: Told how many pictures are done, of how many.
    """
    parts, decoder = list(student.children()), student.decoder
    training = [part.training for part in parts]
    student.eval()
    banned = (vocabulary.pad, vocabulary.bos, vocabulary.unk)
    captions = []
    for start in range(0, len(places), batch_size):
        rows = torch.tensor(places[start : start + batch_size])
        state = decoder.start(student.look(cache, rows))
        found = search(
            decoder.step, state, how, bos=vocabulary.bos, eos=vocabulary.eos, banned=banned
        )
        captions += [join_words(vocabulary.decode(best[0].tokens)) for best in found]
        watch(len(captions), len(places))
    for part, was_training in zip(parts, training, strict=True):
        part.train(was_training)
    return captions
