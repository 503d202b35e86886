"""Rated sentences of vaderSentiment and their split, for classify_tweets.py."""

import io
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioning.errors import DataError

FOLDS = 5
MIN_RATING = 0.5
"""Smallest absolute rating of a tweet in the validation and test sets."""


@dataclass(frozen=True)
class RatedText:
    """A text and the mean of its ratings, from -4 to 4."""

    text: str
    rating: float

    @property
    def probability(self) -> float:
        """The training target: probability of the positive class."""
        return 1 / (1 + np.exp(-2 * self.rating))


@dataclass(frozen=True)
class Split:
    """Training, validation and test set."""

    train: list[RatedText]
    validation: list[RatedText]
    test: list[RatedText]


def read_sentences(source: Path) -> dict[str, list[RatedText]]:
    """Return the rated sentences by kind, from the archive inside the source distribution.

    Raises:
        DataError: The file is not the source distribution of vaderSentiment 3.3.2.
    """
    sentences = {}
    try:
        with tarfile.open(source) as outer:
            name = next(n for n in outer.getnames() if n.endswith("/hutto_ICWSM_2014.tar.gz"))
            with tarfile.open(fileobj=io.BytesIO(read_member(outer, name))) as inner:
                for name in inner.getnames():
                    if name.endswith("_GroundTruth.txt"):
                        lines = read_member(inner, name).decode("utf-8").splitlines()
                        sentences[Path(name).name.removesuffix("_GroundTruth.txt")] = [
                            RatedText(text, float(rating))
                            for _, rating, text in (line.split("\t", 2) for line in lines)
                        ]
    except (OSError, tarfile.TarError, StopIteration, ValueError) as error:
        raise DataError(
            f"cannot read '{source}' as the source distribution of vaderSentiment: {error!r}. "
            "Download it: pip download --no-deps --no-binary :all: vaderSentiment"
        ) from error
    if "tweets" not in sentences:
        raise DataError(f"'{source}' has no tweets, only {list(sentences)}. Use version 3.3.2.")
    return sentences


def read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the content of a file in an archive."""
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def select_rated(texts: Sequence[RatedText]) -> list[RatedText]:
    """Return the texts that are clearly positive or negative."""
    return [text for text in texts if abs(text.rating) >= MIN_RATING]


def split_tweets(sentences: dict[str, list[RatedText]], seed: int, *, add_others: bool) -> Split:
    """Return the split of one seed.

    Args:
        sentences: Rated sentences by kind.
        seed: Number of the fold, over all shuffles.
        add_others: Add all sentences that are not tweets to the training set.
    """
    shuffle, fold = divmod(seed, FOLDS)
    tweets = random.Random(shuffle).sample(sentences["tweets"], len(sentences["tweets"]))
    folds = [tweets[first::FOLDS] for first in range(FOLDS)]
    test = folds.pop(fold)
    rest = [tweet for tweets in folds for tweet in tweets]
    validation_size = len(tweets) // 10
    train = rest[validation_size:]
    if add_others:
        train += [text for kind, texts in sentences.items() if kind != "tweets" for text in texts]
    return Split(train, select_rated(rest[:validation_size]), select_rated(test))
