"""Preparation of a run: splits, features, vocabulary, decoder, tokens."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from captioning.checkpoint import Checkpoint, TrainingInfo
from captioning.datasets import read_text_captions
from captioning.datasets.batches import CaptionDataset, find_hflip_tokens
from captioning.errors import ConfigError, DataError
from captioning.messages import format_count
from captioning.nn.decoder import Decoder
from captioning.nn.device import resolve_device
from captioning.nn.encoder import Encoder
from captioning.nn.extend_vocabulary import extend_vocabulary
from captioning.nn.split_encoder import EncoderTail
from captioning.text.caption_arrays import CaptionArray, CaptionWords
from captioning.text.tokenizers import Tokenizer, get_tokenizer, seem_unsplit
from captioning.text.vocabulary import Vocabulary
from captioning.text.word_vectors import check_word_vectors
from captioning.track import track
from captioning.training.callback import TrainingCallback
from captioning.training.concept_preparation import fit_concepts, simulate_text
from captioning.training.config import RunConfig
from captioning.training.data import EncodedSplit
from captioning.training.encoded_data import encode_data
from captioning.training.initial_embedding import load_embedding
from captioning.training.text_concepts import TextConcepts

_UNSPLIT = (
    "Warning: the captions look like one word each. If their language has no spaces between words, "
    "use --tokenizer characters."
)
_UNSPLIT_IMAGES = 1000  # the check reads the captions of about this many images


@dataclass(frozen=True)
class Prepared:
    """What training starts from.

    Attributes:
        encoder: The image encoder on its device, frozen except for ``tail``.
        tail: The encoder stages to train, which read the cached rows. None: the encoder is frozen.
        decoder: A new decoder, or that of the initial model.
        vocabulary: Words of the training captions, or of the initial model.
        words: Tokenized training captions: those of images first, then those without.
        dataset: The same captions as tokens, without those of unreadable images.
        train: The split to train on.
        validation: The split that selects the best epoch.
        initial_training: How the initial model was trained; None if unknown.
        text_concepts: Concepts of the captions without images; None if there are none.
    """

    encoder: Encoder
    tail: EncoderTail | None
    decoder: Decoder
    vocabulary: Vocabulary
    words: CaptionWords
    dataset: CaptionDataset
    train: EncodedSplit
    validation: EncodedSplit
    initial_training: TrainingInfo | None
    text_concepts: TextConcepts | None = None


def prepare(config: RunConfig, callback: TrainingCallback) -> Prepared:
    """Read the splits, encode their images, and build vocabulary, decoder, and tokens.

    Raises:
        DataError: The captions or images cannot be used.
        WeightsError: The encoder's weights are not available.
        CheckpointError: The initial model cannot be loaded.
        ConfigError: The config does not fit the encoder, the decoder, or this machine.
        OutputError: The cache cannot be written, or its disk is too small.
    """
    if config.word_vectors is not None:
        check_word_vectors(config.word_vectors, config.decoder.embedding_size)
    text = list(read_text_captions(config.text_data).values()) if config.text_data else []
    data = encode_data(config, callback)
    initial, encoder, train, validation = data.initial, data.encoder, data.train, data.validation
    _check_validation(config, validation)

    callback.on_phase("Tokenizing captions")
    tokenizer = _choose_tokenizer(config, initial)
    captions = track([*train.captions, *text], callback.on_progress)
    words = CaptionWords.tokenize(captions, tokenizer.split)
    own = words.select(np.arange(len(train.captions)))  # the captions of images
    _warn_unsplit(own, tokenizer, callback)
    callback.on_phase("Building the vocabulary")
    torch.manual_seed(config.training.seed)  # of the decoder, whatever was encoded before
    vocabulary, decoder = _build_decoder(config, initial, encoder, words, callback)
    references = CaptionWords.tokenize(validation.captions, tokenizer.split)
    _report_unknown(own, references, vocabulary, callback)
    dataset = _build_dataset(words, train, vocabulary, config, callback)
    images = dataset.captions.select(np.arange(len(train.captions)))
    decoder = fit_concepts(decoder, data, images, vocabulary, config, callback)
    text_concepts = None
    if decoder.concepts is not None and text:
        text_concepts = simulate_text(
            decoder,
            validation,
            references.encode(vocabulary),
            dataset.captions,
            first=len(train.captions),
            seed=config.training.seed,
            callback=callback,
        )
    return Prepared(
        encoder=encoder,
        tail=data.tail,
        decoder=decoder,
        vocabulary=vocabulary,
        words=words,
        dataset=dataset,
        train=train,
        validation=validation,
        initial_training=initial.info.training if initial else None,
        text_concepts=text_concepts,
    )


def _choose_tokenizer(config: RunConfig, initial: Checkpoint | None) -> Tokenizer:
    if initial is None:
        return get_tokenizer(config.tokenizer)
    tokenizer = initial.vocabulary.tokenizer
    if config.tokenizer not in ("ptb", tokenizer.name):
        raise ConfigError(
            f"tokenizer is {config.tokenizer!r}, but the initial model has the tokenizer "
            f"{tokenizer.name!r}. Remove the option, or train a new model."
        )
    return tokenizer


def _warn_unsplit(words: CaptionWords, tokenizer: Tokenizer, callback: TrainingCallback) -> None:
    if tokenizer.name != "ptb":
        return
    step = max(1, len(words) // _UNSPLIT_IMAGES)
    captions = [caption for row in range(0, len(words), step) for caption in words.of_image(row)]
    if seem_unsplit(captions):
        callback.on_message(_UNSPLIT)


def _check_validation(config: RunConfig, validation: EncodedSplit) -> None:
    count = len(validation.readable)
    if config.training.select_by == "CIDEr" and count < 2:
        raise DataError(
            f"{config.validation_split} has {format_count(count, 'readable image')}, and CIDEr "
            "needs at least 2. Validate on more images, or add --training.select-by BLEU-4."
        )


def _build_decoder(
    config: RunConfig,
    initial: Checkpoint | None,
    encoder: Encoder,
    words: CaptionWords,
    callback: TrainingCallback,
) -> tuple[Vocabulary, Decoder]:
    """Return the vocabulary and the decoder, new or of the initial model."""
    times = format_count(config.min_count, "time")
    if initial is None:
        vocabulary = Vocabulary.from_counts(
            words.counts(), min_count=config.min_count, tokenizer=config.tokenizer
        )
        size = format_count(len(vocabulary), "word")
        callback.on_message(f"Vocabulary: {size} (found at least {times}).")
        shape = replace(config.decoder, concepts=0)  # they are added later
        decoder = Decoder(shape, vocabulary_size=len(vocabulary), feature_size=encoder.feature_size)
        if config.word_vectors is not None:
            load_embedding(decoder, vocabulary, config.word_vectors, callback)
        return vocabulary, decoder.to(resolve_device(config.device))
    vocabulary, decoder = initial.vocabulary, initial.model.decoder
    callback.on_message(f"Initial model: {config.init_from} ({len(vocabulary)} words).")
    if config.extend_vocabulary:
        known = len(vocabulary)
        vocabulary = vocabulary.extended(words.counts(), min_count=config.min_count)
        decoder = extend_vocabulary(decoder, len(vocabulary), like=vocabulary.unk)
        added = format_count(len(vocabulary) - known, "word")
        callback.on_message(f"Added {added} to the vocabulary (found at least {times}).")
    return vocabulary, decoder


def _report_unknown(
    train: CaptionWords,
    validation: CaptionWords,
    vocabulary: Vocabulary,
    callback: TrainingCallback,
) -> None:
    shares = []
    for split in (train, validation):
        counts = split.counts()
        unknown = sum(count for word, count in counts.items() if word not in vocabulary)
        shares.append(100 * unknown / max(sum(counts.values()), 1))
    callback.on_message(
        f"Unknown words: {shares[0]:.2f} % of the training captions, {shares[1]:.2f} % of the "
        "validation captions."
    )


def _build_dataset(
    words: CaptionWords,
    train: EncodedSplit,
    vocabulary: Vocabulary,
    config: RunConfig,
    callback: TrainingCallback,
) -> CaptionDataset:
    tokens = words.encode(vocabulary)
    if train.cache.unreadable:
        readable = np.ones(len(tokens), bool)
        readable[list(train.cache.unreadable)] = False
        tokens = tokens.keep(np.repeat(readable, tokens.captions_per_image))
    if limit := config.max_caption_words:
        tokens = _cut_captions(tokens, limit, callback)
    weights: list[float] | None = None
    if config.data_weights or config.text_data is not None:
        data_weights = config.data_weights or (1.0,) * len(config.data)
        pairs = zip(data_weights, train.sources, strict=True)
        weights = [weight for weight, (_, images) in pairs for _ in range(images)]
        weights += [config.text_weight] * (len(tokens) - len(weights))
    return CaptionDataset(tokens, hflip_tokens=find_hflip_tokens(vocabulary), weights=weights)


def _cut_captions(tokens: CaptionArray, limit: int, callback: TrainingCallback) -> CaptionArray:
    """Cut captions to ``<bos>`` and ``limit`` words, and report their number.

    A cut caption has no ``<eos>``: a model must not learn to end in the middle of a sentence.
    """
    long = tokens.lengths > limit + 2
    callback.on_message(
        f"Cut {long.sum():,} of {format_count(len(long), 'caption')} after "
        f"{format_count(limit, 'word')} (max_caption_words)."
    )
    return tokens.cut(np.where(long, limit + 1, tokens.lengths))
