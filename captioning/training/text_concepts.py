"""Concepts of captions without images: simulated from their own words.

A decoder that has learned from 490,000 captions to speak of its concepts can name things of which
it has never seen an image (Hendricks et al. 2016; Venugopalan et al. 2017). The simulation makes
the mistakes of the real concepts, as measured on the validation images:

- A concept that a caption names gets the strength that the concept has in a random validation image
  whose captions name it too. It is often 0: a miss.
- False alarms are those of a validation image with similar captions.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.nn.concepts import Concepts
from captioning.nn.features import Features
from captioning.text.caption_arrays import CaptionArray
from captioning.track import OnProgress, track

_SIMILAR_OF = 32  # random validation images, of which the most similar one gives false alarms
_MIN_HITS = 5  # validation images that name a concept; below it, all concepts are drawn from


@dataclass(frozen=True, eq=False)
class TextConcepts:
    """Strengths of the concepts of each text, the rows after those of the images.

    Attributes:
        first: Row of the first text.
        columns: The n strongest concepts of each text.
        values: Their strengths; 0 fills texts with fewer concepts.
    """

    first: int
    columns: Int[Tensor, "T n"]
    values: Float[Tensor, "T n"]

    def complete(
        self, features: Features, images: Int[Tensor, " B"], concepts: Concepts
    ) -> Features:
        """Return features with the concepts of all rows: of images from v, of texts from here."""
        is_text = images >= self.first
        if not is_text.any():
            return features
        strengths = concepts(features.vector)
        rows = images[is_text] - self.first
        of_texts = strengths.new_zeros(len(rows), strengths.shape[1])
        columns = self.columns[rows].to(strengths.device, torch.int64)
        of_texts.scatter_(1, columns, self.values[rows].to(strengths))
        strengths[is_text.to(strengths.device)] = of_texts
        return replace(features, concepts=strengths)


def simulate_concepts(
    concepts: Concepts,
    strengths: Float[Tensor, "N C"],
    captions: CaptionArray,
    texts: CaptionArray,
    *,
    first: int,
    seed: int,
    on_progress: OnProgress = lambda done, total: None,
) -> TextConcepts:
    """Return the simulated concepts of texts.

    Args:
        concepts: The concepts of the decoder.
        strengths: Strengths of the concepts of the validation images.
        captions: Captions of these images, as tokens.
        texts: Captions without images, as tokens, grouped as if each group had an image.
        first: Row of the first text.
        seed: Seed of the simulation.
        on_progress: Called with the number of finished texts and the number of all.
    """
    random = np.random.default_rng(seed)
    of_images = _named_concepts(captions, concepts)
    table = strengths.numpy()
    hits: list[list[float]] = [[] for _ in range(table.shape[1])]
    for row, named in zip(table, of_images, strict=True):
        for column in named:
            hits[column].append(row[column])
    pool = np.array([value for own in hits for value in own] or [0.0], np.float32)
    arrays = [np.array(own, np.float32) if len(own) >= _MIN_HITS else pool for own in hits]
    named_sets = [set(named) for named in of_images]
    false_alarms = [
        {c: row[c] for c in np.flatnonzero(row).tolist() if c not in named}
        for row, named in zip(table, named_sets, strict=True)
    ]
    count = min(concepts.count, table.shape[1])
    columns = torch.zeros(len(texts), count, dtype=torch.int32)
    values = torch.zeros(len(texts), count, dtype=torch.float16)
    candidates = random.integers(len(table), size=(len(texts), _SIMILAR_OF))
    for text, named in enumerate(track(_named_concepts(texts, concepts), on_progress)):
        own = set(named)
        similar = max(candidates[text].tolist(), key=lambda image: len(own & named_sets[image]))
        found = {c: v for c, v in false_alarms[similar].items() if c not in own}
        found.update((c, float(random.choice(arrays[c]))) for c in named)
        best = sorted(found.items(), key=lambda item: -item[1])[:count]
        columns[text, : len(best)] = torch.tensor([c for c, _ in best], dtype=torch.int32)
        values[text, : len(best)] = torch.tensor([v for _, v in best], dtype=torch.float16)
    return TextConcepts(first, columns, values)


def _named_concepts(captions: CaptionArray, concepts: Concepts) -> list[list[int]]:
    """Return the columns of the concepts that the captions of each image name."""
    words = concepts.words.tolist()
    column = np.full(max([int(captions.ids.max(initial=0)), *words]) + 1, -1)
    column[words] = np.arange(len(words))
    found = column[captions.ids]
    ends = captions.caption_starts[captions.image_starts]
    return [
        sorted(set(found[start:end].tolist()) - {-1})
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]
