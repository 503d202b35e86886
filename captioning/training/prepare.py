"""What a run needs before its first batch: splits, features, vocabulary, tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from captioning.checkpoint.checkpoint import Checkpoint, load_checkpoint
from captioning.datasets import CaptionSplit, read_captions, read_text_captions, shorten_spec
from captioning.datasets.batches import CaptionDataset, mirror_words
from captioning.errors import ConfigError, DataError
from captioning.features.cache import CacheRows, JoinedCaches, RowCache
from captioning.features.extraction import cache_features, cache_pixels
from captioning.messages import format_count
from captioning.nn.decoder import Decoder
from captioning.nn.encoder import Encoder
from captioning.nn.extend_vocabulary import extend_vocabulary
from captioning.nn.model import check_device
from captioning.nn.split_encoder import EncoderFront, EncoderTail, cut
from captioning.text.tokenizer import tokenize
from captioning.text.vocabulary import Vocabulary
from captioning.training.augmented_images import AugmentedImages
from captioning.training.callback import TrainingCallback
from captioning.training.config import RunConfig
from captioning.training.precision import precision_advice

_NAMED = 5  # unreadable images that are named one by one
_Words = list[list[list[str]]]


@dataclass(frozen=True)
class PreparedSplit:
    """One split of all data sets, one after the other, ready for use.

    Attributes:
        captions: Of each image.
        cache: Its features, in the same order.
        sources: The name of each data set, and how many of the images are its own.
    """

    captions: tuple[tuple[str, ...], ...]
    cache: CacheRows
    sources: tuple[tuple[str, int], ...]

    @property
    def readable(self) -> list[int]:
        """Places of the images that could be read."""
        return self.cache.readable


@dataclass(frozen=True)
class Prepared:
    """All that training starts from.

    Attributes:
        encoder: On its device; frozen but for ``tail``.
        tail: The stages of it that are trained, whose input the rows are; None for none.
        decoder: New, or that of the model to start from.
        vocabulary: The words of the training captions, or of the model to start from.
        words: The training captions as words, for each image.
        dataset: The training captions as tokens; after those of images, those without.
        train: The split to train on.
        validation: The split whose captions choose the epoch.
        history: The runs that made the model to start from, a line each.
    """

    encoder: Encoder
    tail: EncoderTail | None
    decoder: Decoder
    vocabulary: Vocabulary
    words: _Words
    dataset: CaptionDataset
    train: PreparedSplit
    validation: PreparedSplit
    history: tuple[str, ...]


def prepare(config: RunConfig, callback: TrainingCallback) -> Prepared:
    """Read the splits, encode their images, count their words, build what is to be trained.

    Raises:
        DataError: The captions or images cannot be used.
        WeightsError: The encoder's weights cannot be had.
        CheckpointError: The model to start from cannot be loaded.
        ConfigError: The encoder cannot be fine-tuned so, or the decoder not trained so.
    """
    names = (config.train_split, config.validation_split)
    splits = [[_read(data, name, callback) for data in config.data] for name in names]
    _refuse_overlap(*splits)
    text = [] if config.text_data is None else list(read_text_captions(config.text_data).values())
    check_device(config.device)
    if advice := precision_advice(config.training.precision, config.device):
        callback.on_message(advice)
    torch.manual_seed(config.training.seed)  # for an encoder that is asked to be random
    start = (
        None
        if config.init_from is None
        else load_checkpoint(config.init_from, device=config.device)
    )
    encoder = Encoder(config.encoder).to(config.device) if start is None else start.model.encoder
    stages = config.training.fine_tune_stages
    front, tail = cut(encoder, stages) if stages else (encoder, None)
    attention = config.decoder.attention if start is None else start.model.decoder.config.attention
    if config.training.doubly_stochastic_weight and not attention:
        raise ConfigError(
            "doubly_stochastic weighs where the decoder looks, and this one has no attention. Ask "
            "for --decoder.attention, or leave it out."
        )
    grid = attention or tail is not None
    train = _encode(front, splits[0], config, callback, grid=grid, views=True)
    validation = _encode(front, splits[1], config, callback, grid=grid, views=False)
    if config.training.select_by == "CIDEr" and len(validation.readable) < 2:
        raise DataError(
            f"{config.validation_split} has {len(validation.readable)} readable image, for which "
            "CIDEr is undefined. Validate on more images, or select by BLEU-4."
        )
    words = _tokenized(train.captions)
    text_words = _tokenized(text)
    torch.manual_seed(config.training.seed)
    vocabulary, decoder = _language(config, start, encoder, words + text_words, callback)
    dataset = _dataset(words, text_words, train, vocabulary, config)
    history = () if start is None else _history(start)
    return Prepared(encoder, tail, decoder, vocabulary, words, dataset, train, validation, history)


def _tokenized(captions: Sequence[Sequence[str]]) -> _Words:
    return [[tokenize(caption) for caption in image] for image in captions]


def _language(
    config: RunConfig,
    start: Checkpoint | None,
    encoder: Encoder,
    words: _Words,
    callback: TrainingCallback,
) -> tuple[Vocabulary, Decoder]:
    """Return the words to train with and the decoder that knows them."""
    captions = (caption for image in words for caption in image)
    if start is None:
        vocabulary = Vocabulary.build(captions, min_count=config.min_count)
        times = format_count(config.min_count, "time")
        callback.on_message(f"{format_count(len(vocabulary), 'word')}, each seen {times} or more")
        shape = config.decoder.sized(
            vocabulary_size=len(vocabulary), feature_size=encoder.feature_size
        )
        return vocabulary, Decoder(shape).to(config.device)
    vocabulary, decoder = start.vocabulary, start.model.decoder
    callback.on_message(f"starting from {config.init_from}: {len(vocabulary)} words")
    if config.extend_vocabulary:
        known = len(vocabulary)
        vocabulary = vocabulary.extended(captions, min_count=config.min_count)
        decoder = extend_vocabulary(decoder, len(vocabulary), like=vocabulary.unk)
        new, times = len(vocabulary) - known, format_count(config.min_count, "time")
        callback.on_message(f"{format_count(new, 'new word')}, seen {times} or more")
    return vocabulary, decoder


def _history(start: Checkpoint) -> tuple[str, ...]:
    return () if start.info.training is None else start.info.training.runs


def _read(data: str, name: str, callback: TrainingCallback) -> CaptionSplit:
    split = read_captions(data, split=name)
    count = sum(len(image.captions) for image in split.images)
    callback.on_message(
        f"{shorten_spec(data)}, {name}: {format_count(len(split.images), 'image')}, "
        f"{format_count(count, 'caption')}"
    )
    if report := split.problems.report():
        callback.on_message(report)
    return split


def _refuse_overlap(train: list[CaptionSplit], validation: list[CaptionSplit]) -> None:
    """Validating on training images would choose the epoch that knows them best by heart."""
    seen, held = (
        {image.path.resolve() for split in splits for image in split.images}
        for splits in (train, validation)
    )
    if shared := seen & held:
        raise DataError(
            f"{format_count(len(shared), 'image')} of {train[0].split} are in "
            f"{validation[0].split} too, {min(shared)} among them. Name splits that share none "
            "as train_split and validation_split; give each row of a table its split in a column "
            "of that name; or put {split} into the name of a file that holds one split."
        )


def _encode(
    encoder: Encoder | EncoderFront,
    splits: list[CaptionSplit],
    config: RunConfig,
    callback: TrainingCallback,
    *,
    grid: bool,
    views: bool,
) -> PreparedSplit:
    """Return the splits of all data sets as one, each with a cache of its own."""
    caches = [
        _encode_one(encoder, each, config, callback, grid=grid, views=views) for each in splits
    ]
    captions = tuple(image.captions for split in splits for image in split.images)
    sources = tuple((shorten_spec(split.source), len(split.images)) for split in splits)
    cache: CacheRows = caches[0] if len(caches) == 1 else JoinedCaches(caches)
    if config.training.online_augmentation:
        cache = AugmentedImages(cache, encoder)
    return PreparedSplit(captions, cache, sources)


def _encode_one(
    encoder: Encoder | EncoderFront,
    split: CaptionSplit,
    config: RunConfig,
    callback: TrainingCallback,
    *,
    grid: bool,
    views: bool,
) -> RowCache:
    training = config.training
    paths = [image.path for image in split.images]
    directory = config.cache or config.output.parent / "features"
    cache: RowCache
    if training.online_augmentation:
        cache = cache_pixels(
            encoder.preprocessing,
            paths,
            directory,
            workers=config.workers,
            watch=callback.on_encode,
        )
    else:
        cache = cache_features(
            encoder,
            paths,
            directory,
            grid=grid,
            flip=views and training.hflip,
            crops=training.cached_crops if views else 0,
            workers=config.workers,
            precision=training.precision,
            watch=callback.on_encode,
        )
    _tell_unreadable(cache.unreadable, split, callback)
    return cache


def _tell_unreadable(
    unreadable: Mapping[int, str], split: CaptionSplit, callback: TrainingCallback
) -> None:
    """Name images that are left out, and refuse a split that has no other."""
    for place, why in list(unreadable.items())[:_NAMED]:
        callback.on_message(f"left out {split.images[place].path}: {why}")
    if len(unreadable) > _NAMED:
        more = format_count(len(unreadable) - _NAMED, "more image")
        callback.on_message(f"... and {more} that cannot be read")
    if len(unreadable) == len(split.images):
        raise DataError(
            f"None of the {len(split.images)} images of {split.source} can be read; the first: "
            f"{unreadable.get(0, 'there is none')}"
        )


def _dataset(
    words: _Words, text: _Words, train: PreparedSplit, vocabulary: Vocabulary, config: RunConfig
) -> CaptionDataset:
    unreadable = train.cache.unreadable
    tokens = [
        [vocabulary.encode(caption) for caption in image if caption]
        if place not in unreadable
        else []
        for place, image in enumerate(words + text)
    ]
    times: list[float] | None = None
    if config.data_weights or config.text_data is not None:
        each = config.data_weights or (1.0,) * len(config.data)
        times = [t for t, (_, n) in zip(each, train.sources, strict=True) for _ in range(n)]
        times += [config.text_weight] * len(text)
    return CaptionDataset(tokens, sides=mirror_words(vocabulary), times=times)
