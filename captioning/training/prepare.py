"""What a run needs before its first batch: splits, features, vocabulary, tokens."""

from dataclasses import dataclass

import torch

from captioning.checkpoint import Checkpoint, load_checkpoint
from captioning.data.batches import CaptionDataset, mirror_words
from captioning.data.features import FeatureCache
from captioning.data.readers import CaptionSplit, read_captions
from captioning.data.tokenizer import tokenize
from captioning.data.vocabulary import Vocabulary
from captioning.errors import DataError
from captioning.nn.decoder import Decoder
from captioning.nn.encoder import Encoder
from captioning.nn.model import check_device
from captioning.nn.tail import EncoderFront, EncoderTail, cut
from captioning.training.cache import cache_features
from captioning.training.progress import Watcher
from captioning.training.settings import RunConfig

_NAMED = 5  # unreadable pictures that are named one by one


@dataclass(frozen=True)
class PreparedSplit:
    """One split, ready for use.

    Attributes:
        captions: Of each picture.
        cache: Its features, in the same order.
    """

    captions: tuple[tuple[str, ...], ...]
    cache: FeatureCache

    @property
    def readable(self) -> list[int]:
        """Places of the pictures that could be read."""
        return self.cache.readable


@dataclass(frozen=True)
class Prepared:
    """All that training starts from.

    Attributes:
        encoder: On its device; frozen but for ``tail``.
        tail: The stages of it that are trained, whose input the caches hold; None for none.
        decoder: New, or that of the model to start from.
        vocabulary: The words of the training captions, or of the model to start from.
        words: The training captions as words, for each picture.
        dataset: The training captions as tokens.
        train: The split to train on.
        validation: The split whose captions choose the epoch.
        history: The runs that made the model to start from, a line each.
    """

    encoder: Encoder
    tail: EncoderTail | None
    decoder: Decoder
    vocabulary: Vocabulary
    words: list[list[list[str]]]
    dataset: CaptionDataset
    train: PreparedSplit
    validation: PreparedSplit
    history: tuple[str, ...]


def prepare(config: RunConfig, watcher: Watcher) -> Prepared:
    """Read the splits, encode their pictures, count their words, build what is to be trained.

    Raises:
        DataError: The captions or pictures cannot be used.
        WeightsError: The encoder's weights cannot be had.
        CheckpointError: The model to start from cannot be loaded.
        SettingsError: The encoder cannot be fine-tuned so.
    """
    splits = [
        _read(config, name, watcher) for name in (config.train_split, config.validation_split)
    ]
    _refuse_overlap(*splits)
    check_device(config.device)
    torch.manual_seed(config.training.seed)  # for an encoder that is asked to be random
    start = None if config.start is None else load_checkpoint(config.start, device=config.device)
    encoder = Encoder(config.encoder).to(config.device) if start is None else start.model.encoder
    stages = config.training.fine_tune
    front, tail = cut(encoder, stages) if stages else (encoder, None)
    attention = config.decoder.attention if start is None else start.model.decoder.config.attention
    grid = attention or tail is not None
    train, validation = (_encode(front, split, config, watcher, grid=grid) for split in splits)
    if config.training.select_by == "CIDEr" and len(validation.readable) < 2:
        raise DataError(
            f"{config.validation_split} has {len(validation.readable)} readable picture, for which "
            "CIDEr is undefined. Validate on more pictures, or select by BLEU-4."
        )
    words = [[tokenize(caption) for caption in image] for image in train.captions]
    if start is None:
        vocabulary = Vocabulary.build(
            (caption for image in words for caption in image), min_count=config.min_count
        )
        watcher.say(f"{len(vocabulary)} words, each seen {config.min_count} times or more")
        torch.manual_seed(config.training.seed)
        shape = config.decoder.sized(
            vocabulary_size=len(vocabulary), feature_size=encoder.feature_size
        )
        decoder = Decoder(shape).to(config.device)
    else:
        vocabulary, decoder = start.vocabulary, start.model.decoder
        watcher.say(f"starting from {config.start}: {len(vocabulary)} words")
    dataset = _dataset(words, train, vocabulary)
    history = () if start is None else _history(start)
    return Prepared(encoder, tail, decoder, vocabulary, words, dataset, train, validation, history)


def _history(start: Checkpoint) -> tuple[str, ...]:
    runs = start.info.get("training", {}).get("runs", [])
    return tuple(str(run) for run in runs)


def _read(config: RunConfig, name: str, watcher: Watcher) -> CaptionSplit:
    split = read_captions(config.data, split=name)
    count = sum(len(image.captions) for image in split.images)
    watcher.say(f"{name}: {len(split.images)} pictures, {count} captions")
    if report := split.problems.report():
        watcher.say(report)
    return split


def _refuse_overlap(train: CaptionSplit, validation: CaptionSplit) -> None:
    """Validating on training pictures would choose the epoch that knows them best by heart."""
    shared = {image.path for image in train.images} & {image.path for image in validation.images}
    if shared:
        raise DataError(
            f"{len(shared)} pictures are in both {train.split} and {validation.split}, "
            f"{min(shared)} among them. Name splits that share none, or put {{split}} into the "
            "name of a file that holds one split."
        )


def _encode(
    encoder: Encoder | EncoderFront,
    split: CaptionSplit,
    config: RunConfig,
    watcher: Watcher,
    *,
    grid: bool,
) -> PreparedSplit:
    cache = cache_features(
        encoder,
        [image.path for image in split.images],
        config.cache or config.output.parent / "features",
        grid=grid,
        flip=config.training.mirror,
        workers=config.workers,
        precision=config.training.precision,
        watch=watcher.looked,
    )
    for place, why in list(cache.unreadable.items())[:_NAMED]:
        watcher.say(f"left out {split.images[place].path}: {why}")
    if len(cache.unreadable) > _NAMED:
        watcher.say(f"... and {len(cache.unreadable) - _NAMED} more pictures that cannot be read")
    if len(cache.unreadable) == len(split.images):
        raise DataError(
            f"None of the {len(split.images)} pictures of {split.source} can be read; the first: "
            f"{cache.unreadable.get(0, 'there is none')}"
        )
    return PreparedSplit(tuple(image.captions for image in split.images), cache)


def _dataset(
    words: list[list[list[str]]], split: PreparedSplit, vocabulary: Vocabulary
) -> CaptionDataset:
    tokens = [
        [vocabulary.encode(caption) for caption in image if caption]
        if place not in split.cache.unreadable
        else []
        for place, image in enumerate(words)
    ]
    return CaptionDataset(tokens, sides=mirror_words(vocabulary))
