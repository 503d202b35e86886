"""Of the captions that a search finds, the one nearest to what people said of similar images.

Mao et al. (2015), Deep captioning with multimodal recurrent neural networks (m-RNN), section 8,
call it consensus reranking; Devlin et al. (2015), Exploring nearest neighbor approaches for image
captioning, caption by consensus alone.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from captioning.datasets import CaptionSplit, read_captions, shorten_spec
from captioning.decoding import BeamSearch, Greedy, SearchMethod
from captioning.decoding.hypothesis import Hypothesis
from captioning.errors import ConfigError, DataError
from captioning.features.extraction import cache_features
from captioning.messages import check_minimum, format_count
from captioning.metrics.ngrams import split_at_spaces
from captioning.metrics.reward import CiderReward
from captioning.nn.encoder import Encoder
from captioning.text.tokenizer import tokenize


@dataclasses.dataclass(frozen=True)
class ConsensusConfig:
    """How much the captions of similar images count.

    The defaults did best on the dev photos of Flickr8k (docs/experiments.md).
    """

    neighbours: int = 10
    """Images that are asked: those whose vectors have the highest cosine with the image's."""
    weight: float = 3.0
    """What their consensus, in CIDEr-D from 0 to 10, counts beside the score of the search."""
    power: float = 2.0
    """The power of the cosine by which a similar image counts more than a less similar one."""

    def __post_init__(self) -> None:
        check_minimum(self, neighbours=1, weight=0, power=0)


class Consensus:
    """Images with people's captions, to rank the captions of other images by.

    A caption c of an image with vector v is ranked by

        score(c) + weight * sum_j s_j^power CIDEr-D(c, captions of j) / sum_j s_j^power

    over the images j whose vectors have the highest cosines s_j with v. score(c) is the search's
    own: in a beam the log-probability over (T + 1)^length_penalty. Captions that were cut come
    after those that end, as in the search.

    Args:
        vectors: v of each image.
        captions: What people said of each, as words; at least two images, each with a caption.
        name: What the images are called where the scores are.
        paths: The images' files.
        left_out: Why each of these files could not be read.
        options: How much they count.

    Raises:
        ScoreError: There are fewer than two images, or one has no caption.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "N D"],
        captions: Sequence[Sequence[Sequence[str]]],
        *,
        name: str = "images",
        paths: Sequence[Path] = (),
        left_out: Mapping[Path, str] | None = None,
        options: ConsensusConfig | None = None,
    ) -> None:
        self.options = options or ConsensusConfig()
        self.name = name
        self.paths = tuple(paths)
        self.left_out = left_out or {}
        self._directions = torch.nn.functional.normalize(vectors.float(), dim=1)
        self._captions = [[list(words) for words in each] for each in captions]
        self._cider = CiderReward(dict(enumerate(self._captions)))

    @classmethod
    def from_data(
        cls,
        encoder: Encoder,
        data: Sequence[str],
        *,
        split: str = "train",
        cache: Path | str,
        workers: int = 2,
        options: ConsensusConfig | None = None,
        watch: Callable[[int, int], None] = lambda done, total: None,
    ) -> "Consensus":
        """Look at the images of some data sets.

        Args:
            encoder: Of the model whose captions are to be ranked.
            data: Data sets, as :func:`captioning.read_captions` names them.
            split: Their split.
            cache: Directory in which the vectors are kept; the next call finds them there.
            workers: Processes that read images.
            options: How much they count.
            watch: Told how many images of a data set have been looked at, of how many.

        Raises:
            DataError: A split cannot be used, or fewer than two of its images can be read.
            ConfigError: No data set was named.
        """
        if not data:
            raise ConfigError("No neighbours were named. Give a data set, such as flickr8k:DIR.")
        vectors, captions, paths = [], [], []
        left_out: dict[Path, str] = {}
        for name in data:
            found = read_captions(name, split=split)
            files = [image.path for image in found.images]
            rows = cache_features(
                encoder, files, Path(cache), grid=False, flip=False, workers=workers, watch=watch
            )
            said = {place: _words(found, place) for place in rows.readable}
            asked = [place for place, words in said.items() if words]
            vectors.append(rows.read(torch.tensor(asked, dtype=torch.long))[:, 0])
            captions += [said[place] for place in asked]
            paths += [files[place] for place in asked]
            left_out |= {files[place]: why for place, why in rows.unreadable.items()}
        if len(paths) < 2:
            raise DataError(
                f"{', '.join(data)} has {format_count(len(paths), 'captioned image')} "
                f"in {split} that "
                "can be read. Give a data set of many as neighbours."
            )
        return cls(
            torch.cat(vectors),
            captions,
            name=f"{'+'.join(map(shorten_spec, data))}:{split}",
            paths=paths,
            left_out=left_out,
            options=options,
        )

    @property
    def signature(self) -> str:
        """Every choice of it that moves a score."""
        options = self.options
        return (
            f"neighbours:{self.name},images={len(self._captions)},k={options.neighbours},"
            f"weight={options.weight:g},power={options.power:g}"
        )

    @property
    def fingerprint(self) -> str:
        """The signature, and what tells these images and captions from all others.

        The vectors do not enter it: they follow from the images and the model, and differ in the
        last bits from one machine or cache to another.
        """
        names = [path.name for path in self.paths]
        content = repr((names, self._captions)).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(content)
        return f"{self.signature},{digest.hexdigest()[:16]}"

    def widened(self, how: SearchMethod) -> SearchMethod:
        """Return the search with as many captions to choose from as its beam is wide.

        Others than a beam search stay as they are.

        Raises:
            ConfigError: It finds one caption only.
        """
        if isinstance(how, BeamSearch):
            how = dataclasses.replace(how, n=how.width)
        if isinstance(how, Greedy) or getattr(how, "n", 2) < 2:
            raise ConfigError(
                "The search finds one caption, and neighbours choose among several. Give a wider "
                "beam: --width 8, or BeamSearch(width=8)."
            )
        return how

    def ranked(
        self,
        vector: Float[Tensor, " D"],
        hypotheses: Sequence[Hypothesis],
        words: Sequence[Sequence[str]],
    ) -> list[Hypothesis]:
        """Return the captions of one image, best first; cut ones after all finished ones.

        Args:
            vector: v of the image.
            hypotheses: What the search found.
            words: The words of each.
        """
        agreed = self.agreement(vector, words)
        values = [
            h.score + self.options.weight * a for h, a in zip(hypotheses, agreed, strict=True)
        ]
        order = sorted(
            range(len(values)), key=lambda place: (not hypotheses[place].finished, -values[place])
        )
        return [hypotheses[place] for place in order]

    def agreement(
        self, vector: Float[Tensor, " D"], captions: Sequence[Sequence[str]]
    ) -> list[float]:
        """Return how far captions agree with those of the images most similar to one.

        Args:
            vector: v of the image.
            captions: The words of each.
        """
        options = self.options
        direction = torch.nn.functional.normalize(vector.float(), dim=0)
        cosines = self._directions @ direction
        most = min(options.neighbours, len(cosines))
        similar = cosines.topk(most)
        weights = similar.values.clamp(min=1e-6) ** options.power
        shares = (weights / weights.sum()).tolist()
        images = similar.indices.tolist()
        return [
            sum(
                share * value
                for share, value in zip(shares, self._cider(images, [caption] * most), strict=True)
            )
            for caption in captions
        ]


def _words(split: CaptionSplit, place: int) -> list[list[str]]:
    found = [split_at_spaces(tokenize(caption)) for caption in split.images[place].captions]
    return [words for words in found if words]
