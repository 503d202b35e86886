"""Concepts of a run: fitted to its images, and simulated for its captions without images."""

import numpy as np
import torch

from captioning.features.cached_model import CachedModel
from captioning.features.extraction import ExtractionConfig, plan_features
from captioning.messages import format_count
from captioning.nn.decoder import Decoder
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EXTERNAL, EncoderConfig
from captioning.nn.pretrained import weights_hash
from captioning.text.caption_arrays import CaptionArray
from captioning.text.vocabulary import Vocabulary
from captioning.training.callback import ENCODING, TrainingCallback
from captioning.training.concept_fitting import ClassTeacher, add_concepts
from captioning.training.config import RunConfig
from captioning.training.data import EncodedSplit
from captioning.training.encoded_data import EncodedData
from captioning.training.text_concepts import TextConcepts, simulate_concepts

_CHUNK = 512  # images whose grids are read at once


def fit_concepts(
    decoder: Decoder,
    data: EncodedData,
    captions: CaptionArray,
    vocabulary: Vocabulary,
    config: RunConfig,
    callback: TrainingCallback,
) -> Decoder:
    """Return the decoder with ``config.decoder.concepts``, unless it has concepts already.

    Args:
        decoder: The decoder.
        data: Features of the run.
        captions: Captions of the training images, as tokens.
        vocabulary: Words of the decoder.
        config: The run.
        callback: Receives progress and messages.

    Raises:
        DataError: No word can be recognized in the images.
        WeightsError: The pretrained weights of the encoder are not available.
        OutputError: The cache cannot be written.
    """
    count = config.decoder.concepts
    if not count or decoder.concepts is not None:
        return decoder
    rows = np.flatnonzero(captions.captions_per_image)
    teacher = _load_teacher(data, rows, config, callback)
    callback.on_phase("Reading features")
    vectors = CachedModel(decoder).read_vectors(
        data.train.cache, rows, batch_size=_CHUNK, on_progress=callback.on_progress
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        extended = add_concepts(
            decoder, count, vectors.half(), captions.select(rows), vocabulary, teacher, callback
        )
    words, classes = extended.sizes.concepts, extended.sizes.classes
    callback.on_message(
        f"Concepts: {format_count(words, 'word')}"
        f"{f', from captions and from {classes:,} classes of ImageNet' if classes else ''}; "
        f"the {count} strongest of each image are used."
    )
    return extended


def simulate_text(
    decoder: Decoder,
    validation: EncodedSplit,
    references: CaptionArray,
    captions: CaptionArray,
    *,
    first: int,
    seed: int,
    callback: TrainingCallback,
) -> TextConcepts:
    """Return the concepts of the captions without images.

    Args:
        decoder: Decoder with concepts.
        validation: Images on which the mistakes of the concepts are measured.
        references: Their captions, as tokens.
        captions: All training captions, as tokens: those of images first.
        first: Row of the first text.
        seed: Seed of the simulation.
        callback: Receives progress.
    """
    assert decoder.concepts is not None
    callback.on_phase("Simulating the concepts of text")
    rows = np.array(validation.readable)
    concepts = decoder.concepts
    vectors = CachedModel(decoder).read_vectors(validation.cache, rows, batch_size=_CHUNK).half()
    vectors = vectors.to(concepts.W_cv.device)
    strengths = torch.cat([concepts(part.float()).cpu() for part in vectors.split(_CHUNK)])
    texts = captions.select(np.arange(first, len(captions)))
    references = references.select(rows)
    return simulate_concepts(
        concepts,
        strengths,
        references,
        texts,
        first=first,
        seed=seed,
        on_progress=callback.on_progress,
    )


def _load_teacher(
    data: EncodedData, rows: np.ndarray, config: RunConfig, callback: TrainingCallback
) -> ClassTeacher | None:
    """Return what the pretrained CNN recognizes in the images; None if its training is unknown."""
    own = data.encoder
    if own.config.name == EXTERNAL or own.config.weights not in ("default", "hub", "package"):
        return None
    callback.on_phase("Loading the pretrained encoder")
    settings = own.config
    pretrained = Encoder(
        EncoderConfig(settings.name, settings.weights, settings.image_size, settings.fit),
        own.preprocessing,
    )
    classifier = pretrained.classifier
    if classifier is None:
        callback.on_message(
            f"{settings.name} has no known classifier of ImageNet's 1,000 classes. Only words of "
            "the captions are concepts."
        )
        return None
    if weights_hash(pretrained) == weights_hash(own):
        return ClassTeacher(classifier, None)
    pretrained.to(next(own.parameters()).device)
    images = [data.train.images[row] for row in rows.tolist()]
    extraction = ExtractionConfig(
        workers=config.workers, precision=config.training.encoder_precision
    )
    callback.on_phase(ENCODING)
    plan = plan_features(pretrained, images, config.cache_directory, extraction)
    stored = plan.run(callback.on_progress)
    vectors = torch.cat(
        [stored.read(part).mean(1) for part in torch.arange(len(rows)).split(_CHUNK)]
    )
    return ClassTeacher(classifier, vectors)
