"""Fitting of concepts: the words that the CNN recognizes in an image.

The words of captions get a detector, a logistic regression from v (Wu et al. 2016, section 3.1).
The classes of ImageNet need none: their classifier comes with the pretrained CNN. If the CNN was
fine-tuned since, its v has changed, and the classifier is fitted to the probabilities that the
pretrained CNN has for the same images.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from captioning.errors import DataError
from captioning.nn.concepts import WORDS_PER_CLASS, Concepts
from captioning.nn.decoder import Decoder
from captioning.text.caption_arrays import CaptionArray
from captioning.text.vocabulary import SPECIALS, Vocabulary
from captioning.track import OnProgress
from captioning.training.callback import TrainingCallback

_MAX_WORDS = 600  # with a detector
_CANDIDATES = 2500
_MIN_IMAGES = 10  # that a caption has the word of
_HELD_OUT = 5  # every fifth image measures what a detector gains over the mean
_MIN_GAIN = 2.0  # in standard errors
_MIN_INFORMATION = 0.12  # share of a word's entropy; less is typical of function words
_INPUT_DROPOUT = 0.8  # keeps the detector from memorizing the images
_EPOCHS, _BATCH, _RATE = 10, 256, 1e-3
_NEVER = -30.0  # logit of a probability of 0
_MIN_STEPS = 400  # more epochs of a small data set

_Loss = Callable[[Tensor, Tensor], Tensor]
_SILENT = TrainingCallback()


@dataclass(frozen=True, eq=False)
class ClassTeacher:
    """What the pretrained CNN recognizes in the training images.

    Attributes:
        classifier: Its classifier.
        vectors: Its v of each image. None: the same as those of the model.
    """

    classifier: nn.Linear
    vectors: Float[Tensor, "N D"] | None


@dataclass(frozen=True, eq=False)
class _Detector:
    """Words that can be recognized, with the weights and the share of images of each."""

    words: list[int]
    weight: Float[Tensor, "W D"]
    bias: Float[Tensor, " W"]
    share: Float[Tensor, " W"]

    def copy_to(self, concepts: Concepts, ids: Sequence[int]) -> None:
        """Set the detector of the first of ``ids``; later ones, of classes only, have p = 0."""
        count = len(self.words)
        concepts.words.copy_(torch.tensor(ids))
        concepts.W_cv[:count] = self.weight
        concepts.b_c[:count] = self.bias
        concepts.b_c[count:] = _NEVER
        concepts.mean[:count] = self.share


def load_class_words() -> list[tuple[str, ...]]:
    """Return the words that each of the 1,000 classes of ImageNet stands for, specific ones first.

    They come from the synset of the class and from its hypernyms in WordNet 3.0
    (``scripts/make_class_words.py``).
    """
    text = files("captioning.training").joinpath("imagenet_words.tsv").read_text("utf-8")
    rows = csv.reader(text.splitlines(), delimiter="\t")
    return [tuple(words.split()) for _, words in rows]


def add_concepts(
    decoder: Decoder,
    count: int,
    vectors: Float[Tensor, "N D"],
    captions: CaptionArray,
    vocabulary: Vocabulary,
    teacher: ClassTeacher | None,
    callback: TrainingCallback = _SILENT,
) -> Decoder:
    """Return a decoder with fitted concepts and the same behavior: their weights are zero.

    Args:
        decoder: Source of the weights; it is not changed.
        count: Number of concepts per image.
        vectors: v of each training image.
        captions: Captions of these images, as tokens.
        vocabulary: Words of the decoder.
        teacher: What the pretrained CNN recognizes. None: only words of captions are concepts.
        callback: Receives progress.

    Raises:
        DataError: No word can be recognized.
    """
    detector = _fit_detector(vectors, captions, callback)
    classes = [] if teacher is None else load_class_words()
    class_ids = [
        [vocabulary.id(word) for word in own if word in vocabulary][:WORDS_PER_CLASS]
        for own in classes
    ]
    ids = list(dict.fromkeys([*detector.words, *(word for own in class_ids for word in own)]))
    if not ids:
        raise DataError(
            "no word of the captions can be recognized in the images, so there are no concepts. "
            "Train on more images, or set decoder.concepts to 0."
        )
    config = replace(decoder.config, concepts=count)
    sizes = replace(decoder.sizes, concepts=len(ids), classes=len(classes))
    extended = Decoder(config, **asdict(sizes))
    concepts = extended.concepts
    assert concepts is not None
    detector.copy_to(concepts, ids)
    if teacher is not None:
        column = {word: index for index, word in enumerate(ids)}
        for row, own in zip(concepts.class_words, class_ids, strict=True):
            row[: len(own)] = torch.tensor([column[word] for word in own])
        _set_classifier(concepts, _fit_classifier(vectors, teacher, callback), vectors)
    extended.load_state_dict(decoder.state_dict(), strict=False)
    return extended.to(decoder.embedding.weight.device)


def _set_classifier(
    concepts: Concepts, classifier: nn.Linear, vectors: Float[Tensor, "N D"]
) -> None:
    concepts.W_kv.copy_(classifier.weight.data)
    concepts.b_k.copy_(classifier.bias.data)
    sums = [concepts.sum_classes(part.float()).sum(0) for part in vectors.split(_BATCH)]
    concepts.class_mean.copy_(torch.stack(sums).sum(0) / len(vectors))


def _fit_detector(
    vectors: Float[Tensor, "N D"], captions: CaptionArray, callback: TrainingCallback
) -> _Detector:
    """Return the detector of the words that can be recognized.

    A word is kept if its detector predicts the captions of held-out images clearly better than the
    share of images that have it. Then the detector is fitted to all images.
    """
    pairs = _words_of_images(captions)
    images = np.bincount(pairs[:, 1])
    order = np.argsort(-images, kind="stable")
    words = [w for w in order[:_CANDIDATES].tolist() if w >= len(SPECIALS)]
    words = [word for word in words if images[word] >= _MIN_IMAGES]
    if not words:
        return _no_words(vectors)
    present = _presence(pairs, len(captions), words)
    held_out = torch.arange(len(vectors)) % _HELD_OUT == 0
    train = ~held_out
    callback.on_phase("Selecting concepts")
    detector = _fit_presence(vectors[train], present[train], callback.on_progress)
    with torch.no_grad():
        p = torch.sigmoid(detector(vectors[held_out].float()))
    share = present[train].float().mean(0)
    gains = _log_likelihood(p, present[held_out]) - _log_likelihood(share, present[held_out])
    certain = gains.mean(0) > _MIN_GAIN * gains.std(0) / len(gains) ** 0.5
    certain &= gains.mean(0) > _MIN_INFORMATION * torch.distributions.Bernoulli(share).entropy()
    ranked = gains.mean(0).argsort(descending=True).tolist()
    best = [index for index in ranked if certain[index]][:_MAX_WORDS]
    chosen = [words[index] for index in best]
    if not best:
        return _no_words(vectors)
    callback.on_phase("Fitting concepts")
    fitted = _fit_presence(vectors, present[:, best], callback.on_progress)
    return _Detector(chosen, fitted.weight.data, fitted.bias.data, present[:, best].float().mean(0))


def _no_words(vectors: Float[Tensor, "N D"]) -> _Detector:
    return _Detector([], vectors.new_zeros(0, vectors.shape[1]), torch.zeros(0), torch.zeros(0))


def _fit_presence(
    vectors: Float[Tensor, "N D"], present: Bool[Tensor, "N W"], on_progress: OnProgress
) -> nn.Linear:
    detector = nn.Linear(vectors.shape[1], present.shape[1])
    nn.init.zeros_(detector.weight)
    detector.bias.data = torch.logit(present.float().mean(0).clamp(1e-4, 1 - 1e-4))

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        # The sum over the words: the rate of a word must not depend on the number of words.
        total = nn.functional.binary_cross_entropy_with_logits(
            logits, target.float(), reduction="sum"
        )
        return total / len(logits)

    return _fit(detector, vectors, present, loss, on_progress, dropout=_INPUT_DROPOUT)


def _log_likelihood(p: Float[Tensor, "*M W"], present: Bool[Tensor, "M W"]) -> Float[Tensor, "M W"]:
    target = present.float()
    p = p.clamp(1e-4, 1 - 1e-4)
    return target * p.log() + (1 - target) * (1 - p).log()


def _fit_classifier(
    vectors: Float[Tensor, "N D"], teacher: ClassTeacher, callback: TrainingCallback
) -> nn.Linear:
    """Return the classifier of v that agrees with the pretrained CNN (Hinton et al. 2015)."""
    if teacher.vectors is None:
        return teacher.classifier
    with torch.no_grad():
        target = teacher.classifier(teacher.vectors.float()).log_softmax(1)
    student = nn.Linear(teacher.classifier.in_features, teacher.classifier.out_features)
    student.load_state_dict(teacher.classifier.state_dict())

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.kl_div(
            logits.log_softmax(1), target, reduction="batchmean", log_target=True
        )

    callback.on_phase("Fitting the classifier")
    return _fit(student, vectors, target, loss, callback.on_progress, dropout=0.0)


def _fit(
    linear: nn.Linear,
    vectors: Float[Tensor, "N D"],
    targets: Tensor,
    loss: _Loss,
    on_progress: OnProgress,
    *,
    dropout: float,
) -> nn.Linear:
    """Fit a linear layer of v by Adam; v is standardized during the fit."""
    mean, scale = vectors.float().mean(0), vectors.float().std(0) + 1e-6
    inner = nn.Linear(linear.in_features, linear.out_features)
    inner.weight.data = linear.weight.data * scale
    inner.bias.data = linear.bias.data + linear.weight.data @ mean
    size = min(_BATCH, len(vectors))
    batches = len(vectors) // size
    epochs = max(_EPOCHS, -(-_MIN_STEPS // batches))
    optimizer = torch.optim.Adam(inner.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for epoch in range(epochs):
        on_progress(epoch, epochs)
        for rows in torch.randperm(len(vectors)).split(size)[:batches]:
            x = nn.functional.dropout((vectors[rows].float() - mean) / scale, dropout)
            optimizer.zero_grad()
            loss(inner(x), targets[rows]).backward()
            optimizer.step()
            schedule.step()
    fitted = nn.Linear(linear.in_features, linear.out_features)
    fitted.weight.data = inner.weight.data / scale
    fitted.bias.data = inner.bias.data - fitted.weight.data @ mean
    return fitted.requires_grad_(False)


def _words_of_images(captions: CaptionArray) -> Int[np.ndarray, "pairs 2"]:
    """Return the distinct pairs of an image and a word of its captions."""
    caption_image = np.repeat(np.arange(len(captions)), captions.captions_per_image)
    image = np.repeat(caption_image, captions.lengths)
    return np.unique(np.stack([image, captions.ids], 1), axis=0)


def _presence(
    pairs: Int[np.ndarray, "pairs 2"], images: int, words: Sequence[int]
) -> Bool[Tensor, "N W"]:
    column = np.full(pairs[:, 1].max() + 1, -1)
    column[list(words)] = np.arange(len(words))
    present = torch.zeros(images, len(words), dtype=torch.bool)
    chosen = pairs[column[pairs[:, 1]] >= 0]
    present[chosen[:, 0], column[chosen[:, 1]]] = True
    return present
