"""A model and a captioned split give scores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioning.datasets import CaptionSplit, read_captions, shorten_spec
from captioning.datasets.coco_results import write_results
from captioning.decoding import SearchMethod, search_to_json
from captioning.errors import ConfigError, DataError
from captioning.evaluation.search_sweep import try_searches
from captioning.features.cached_model import CachedModel
from captioning.features.extraction import cache_features
from captioning.files import check_writable, find_copies
from captioning.inference.captioner import Captioner
from captioning.messages import format_count
from captioning.metrics import Scores, score
from captioning.metrics.java import check_java
from captioning.reranking.consensus import Consensus


@dataclass(frozen=True)
class Evaluation:
    """What a model said about a split, and what it scored.

    Attributes:
        captions: The caption of each image, by its id.
        references: What people said about it.
        unreadable: Why each of these images could not be read; they are not scored.
        split: What was read, with its problems.
        search: How the captions were searched for.
        scores: Over the images that could be read.
        training: Every caption of the same data's train split, to tell which captions are new; None
            where there is no such split.
        consensus: The signature of the captioned images that were asked; empty for none.
    """

    captions: dict[int, str]
    references: dict[int, list[str]]
    unreadable: dict[int, str]
    split: CaptionSplit
    search: SearchMethod
    scores: Scores
    training: tuple[str, ...] | None = None
    consensus: str = ""

    @property
    def signature(self) -> str:
        """Every choice that moved a number: the split, the search, the scorer's own."""
        settings = search_to_json(self.search)
        search = ",".join(
            f"{name}={value}" for name, value in settings.items() if value not in ([], 0)
        )
        data = shorten_spec(self.split.source)
        asked = f"{self.consensus}|" if self.consensus else ""
        where = f"data:{data}|split:{self.split.split}"
        return f"{where}|search:{search}|{asked}{self.scores.signature}"


def evaluate(
    captioner: Captioner,
    data: str,
    *,
    split: str,
    search: SearchMethod | None = None,
    output: Path | str | None = None,
    java: Sequence[str] = (),
    batch_size: int = 16,
    workers: int = 2,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Caption a split with a model and score the captions.

    Args:
        captioner: The model.
        data: A data set, as :func:`captioning.read_captions` names it.
        split: ``train``, ``val`` or ``test``.
        search: How to search; None for the model's own way.
        output: Where the captions are written, in the COCO results format, before they are scored.
        java: Further metrics out of ``"meteor"`` and ``"spice"``, which need Java.
        batch_size: Images that go through the network together.
        workers: Processes that read images.
        watch: Told how many images are done, of how many.

    Raises:
        DataError: The split cannot be used, none of its images can be read, or the captioner asks
            some of the very images or copies of them.
        ConfigError: The search counts phrases and the model has learned none, or the captioner
            asks neighbours and the search finds one caption only.
        OutputError: The captions cannot be written.
        ScoreError: A metric in Java cannot be had here.
    """
    if java:
        check_java(java)
    if output is not None:
        check_writable(Path(output))
    found = read_captions(data, split=split)
    captioner.check_search(search or captioner.checkpoint.search)
    if captioner.consensus is not None:
        _refuse_known(found, captioner.consensus)
    captions, unreadable = {}, {}
    stream = captioner.caption_files(
        [image.path for image in found.images],
        search=search,
        batch_size=batch_size,
        workers=workers,
    )
    for done, (image, result) in enumerate(zip(found.images, stream, strict=True), 1):
        if result.ok:
            captions[image.image_id] = result.text
        else:
            unreadable[image.image_id] = result.error
        watch(done, len(found.images))
    if not captions:
        raise _nothing_readable(data, unreadable)
    if output is not None:
        write_results(captions, output)
    references = {
        image.image_id: list(image.captions) for image in found.images if image.image_id in captions
    }
    return Evaluation(
        captions=captions,
        references=references,
        unreadable=unreadable,
        split=found,
        search=search or captioner.checkpoint.search,
        scores=score(captions, references, java=java),
        training=_training_captions(data, found),
        consensus=captioner.consensus.signature if captioner.consensus else "",
    )


def _refuse_known(split: CaptionSplit, consensus: Consensus) -> None:
    """An image that is asked about itself answers with its own references, a copy of it too."""
    paths = [image.path for image in split.images]
    if known := find_copies(paths, consensus.paths):
        raise DataError(
            f"{format_count(len(known), 'image')} of {split.split}, {known[0]} among "
            "them, or copies "
            "of them are also among the neighbours, so that captions would be chosen by the "
            "references that they are scored against. Name neighbours that share no image with "
            "what is evaluated."
        )


def _nothing_readable(data: str, unreadable: Mapping[int, str]) -> DataError:
    return DataError(
        f"None of the {len(unreadable)} images of {data} can be read; the first: "
        f"{next(iter(unreadable.values()))}"
    )


def _training_captions(data: str, evaluated: CaptionSplit) -> tuple[str, ...] | None:
    try:
        train = read_captions(data, split="train")
    except DataError:
        return None  # this data has no train split, or not on this machine
    if {image.path for image in train.images} & {image.path for image in evaluated.images}:
        return None  # one file, whichever split is named
    return tuple(caption for image in train.images for caption in image.captions)


def sweep(
    captioner: Captioner,
    data: str,
    *,
    split: str,
    searches: Iterable[SearchMethod],
    cache: Path | str,
    workers: int = 2,
    watch: Callable[[SearchMethod, Scores], None] = lambda how, scores: None,
) -> dict[SearchMethod, Scores]:
    """Score a split under each of several searches, looking at its images once.

    Args:
        captioner: The model.
        data: A data set, as :func:`captioning.read_captions` names it.
        split: ``train``, ``val`` or ``test``. A search that is chosen by its score here is chosen
            on this split: report another split's score of it.
        searches: What to try.
        cache: Directory in which the images' features are kept; the next sweep finds them there.
        workers: Processes that read images.
        watch: Told each search and its scores as they are found.

    Returns:
        The scores of each search over the images that could be read.

    Raises:
        DataError: The split cannot be used, or none of its images can be read.
        ConfigError: The captioner has several models or asks neighbours, or a search counts
            phrases and the model has learned none.
    """
    if captioner.others or captioner.consensus is not None:
        raise ConfigError(
            "A sweep is of one model alone. Use evaluate for several that choose together, and for "
            "one that asks neighbours."
        )
    searches = tuple(searches)
    for how in searches:
        captioner.check_search(how)
    found = read_captions(data, split=split)
    model, vocabulary = captioner.checkpoint.model, captioner.checkpoint.vocabulary
    paths = [image.path for image in found.images]
    grid = model.decoder.config.attention
    features = cache_features(
        model.encoder, paths, Path(cache), grid=grid, flip=False, workers=workers
    )
    if not (places := features.readable):
        raise _nothing_readable(data, features.unreadable)
    references = {place: list(found.images[place].captions) for place in places}
    return try_searches(
        CachedModel(model.decoder),
        features,
        references,
        vocabulary,
        reranker=captioner.checkpoint.reranker,
        searches=searches,
        watch=watch,
    )
