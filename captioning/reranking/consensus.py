"""Consensus reranking: prefer hypotheses that agree with the captions of similar images.

Mao et al. (2015), Deep captioning with multimodal recurrent neural networks (m-RNN), section 8,
rerank hypotheses this way. Devlin et al. (2015), Exploring nearest neighbor approaches for image
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
from captioning.datasets.caption_data import name_data
from captioning.decoding import BeamSearch, Greedy, SearchMethod
from captioning.decoding.hypothesis import Hypothesis
from captioning.errors import ConfigError, DataError
from captioning.features.extraction import ExtractionConfig, cache_features
from captioning.messages import check_minimum, format_count
from captioning.metrics.reward import CiderReward
from captioning.nn.encoder import Encoder
from captioning.text.ngrams import split_at_spaces
from captioning.text.tokenizers import Tokenizer, TokenizerName, get_tokenizer


@dataclasses.dataclass(frozen=True)
class ConsensusConfig:
    """Settings of consensus reranking.

    The defaults gave the best scores on the dev images of Flickr8k (docs/experiments.md).
    """

    num_neighbors: int = 10
    """Number of similar images: those whose vectors have the highest cosine with v."""
    weight: float = 3.0
    """Weight of the consensus (CIDEr-D, 0 to 10) next to the score of the search."""
    power: float = 2.0
    """Exponent of the cosine in the weight of a similar image (0: equal weights)."""
    split: str = "train"
    """Split of the data sets whose images are compared."""

    def __post_init__(self) -> None:
        check_minimum(self, num_neighbors=1, weight=0, power=0)


class Consensus:
    """Captioned images by which the hypotheses for other images are reranked.

    A hypothesis c for an image with vector v is ranked by ::

        score(c) + weight * sum_j s_j^power CIDEr-D(c, captions of j) / sum_j s_j^power

    where j runs over the images whose vectors have the highest cosines s_j with v. score(c) is the
    score of the search; in beam search, the log-probability divided by (T + 1)^length_penalty.
    Unfinished hypotheses rank after all finished ones, as in the search.

    Args:
        vectors: v of each image.
        captions: Captions of each image, as words. Each image needs at least one.
        name: Name of the images in signatures.
        paths: Files of the images.
        unreadable: Files that could not be read, with the reason.
        config: Settings of the reranking.

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
        unreadable: Mapping[Path, str] | None = None,
        config: ConsensusConfig | None = None,
    ) -> None:
        self.config = config or ConsensusConfig()
        self.name = name
        self.paths = tuple(paths)
        self.unreadable = unreadable or {}
        self._directions = torch.nn.functional.normalize(vectors.float(), dim=1)
        self._captions = [[list(words) for words in own] for own in captions]
        self._cider = CiderReward(dict(enumerate(self._captions)))

    @classmethod
    def from_data(
        cls,
        encoder: Encoder,
        data: Sequence[str],
        *,
        tokenizer: TokenizerName = "ptb",
        cache: Path | str,
        workers: int = 2,
        config: ConsensusConfig | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> "Consensus":
        """Extract the image vectors of captioned data sets.

        Args:
            encoder: Encoder of the model whose hypotheses are reranked.
            data: Data sets, as for :func:`captioning.read_captions`.
            tokenizer: Tokenizer of the model.
            cache: Directory of the image vectors, kept for later calls.
            workers: Processes that read images.
            config: Settings of the reranking.
            on_progress: Called with the images of a data set done so far, and their total.

        Raises:
            DataError: A split cannot be used, or fewer than two of its images can be read.
            ConfigError: ``data`` is empty.
        """
        if not data:
            raise ConfigError("no consensus data given. Name a data set, such as flickr8k:DIR.")
        data = tuple(map(name_data, data))
        config = config or ConsensusConfig()
        vectors, captions, paths = [], [], []
        unreadable: dict[Path, str] = {}
        for spec in data:
            found = read_captions(spec, split=config.split)
            files = [image.path for image in found.images]
            rows = cache_features(
                encoder,
                [image.ref for image in found.images],
                Path(cache),
                ExtractionConfig(workers=workers),
                on_progress=on_progress,
            )
            words = {
                row: _caption_words(found, row, get_tokenizer(tokenizer)) for row in rows.readable
            }
            captioned = [row for row, own in words.items() if own]
            vectors.append(rows.read(torch.tensor(captioned, dtype=torch.long))[:, 0])
            captions += [words[row] for row in captioned]
            paths += [files[row] for row in captioned]
            unreadable |= {files[row]: reason for row, reason in rows.unreadable.items()}
        if len(paths) < 2:
            raise DataError(
                f"{', '.join(data)} has {format_count(len(paths), 'captioned image')} in "
                f"{config.split} that can be read. Use a larger data set for consensus reranking."
            )
        name = f"{'+'.join(map(shorten_spec, data))}:{config.split}"
        joined = torch.cat(vectors)
        return cls(joined, captions, name=name, paths=paths, unreadable=unreadable, config=config)

    @property
    def signature(self) -> str:
        """All choices that change a score, as text."""
        config = self.config
        return (
            f"consensus:{self.name},images={len(self._captions)},k={config.num_neighbors},"
            f"weight={config.weight:g},power={config.power:g}"
        )

    @property
    def fingerprint(self) -> str:
        """The signature, and a hash of the file names and captions.

        The hash leaves out the vectors: they follow from images and model, and their last bits
        differ between machines.
        """
        names = [path.name for path in self.paths]
        content = repr((names, self._captions)).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(content)
        return f"{self.signature},{digest.hexdigest()[:16]}"

    def widen_search(self, search: SearchMethod) -> SearchMethod:
        """Return a search that gives all hypotheses of its beam.

        Searches other than beam search are returned unchanged.

        Raises:
            ConfigError: The search gives one hypothesis only.
        """
        if isinstance(search, BeamSearch):
            search = dataclasses.replace(search, n=search.width)
        if isinstance(search, Greedy) or getattr(search, "n", 2) < 2:
            raise ConfigError(
                "consensus reranking needs several hypotheses, and the search gives one. Use a "
                "wider beam: --width 8, or BeamSearch(width=8)."
            )
        return search

    def rerank(
        self,
        vector: Float[Tensor, " D"],
        hypotheses: Sequence[Hypothesis],
        words: Sequence[Sequence[str]],
    ) -> list[Hypothesis]:
        """Return the hypotheses of one image, best first, unfinished ones last.

        Args:
            vector: v of the image.
            hypotheses: Result of the search.
            words: Words of each hypothesis.
        """
        scores = self.score_captions(vector, words)
        values = [h.score + self.config.weight * s for h, s in zip(hypotheses, scores, strict=True)]
        order = sorted(range(len(values)), key=lambda i: (not hypotheses[i].finished, -values[i]))
        return [hypotheses[i] for i in order]

    def score_captions(
        self, vector: Float[Tensor, " D"], captions: Sequence[Sequence[str]]
    ) -> list[float]:
        """Return the consensus of each caption: its weighted CIDEr-D with the similar images.

        Args:
            vector: v of the image.
            captions: Words of each caption.
        """
        direction = torch.nn.functional.normalize(vector.float(), dim=0)
        cosines = self._directions @ direction
        count = min(self.config.num_neighbors, len(cosines))
        similar = cosines.topk(count)
        weights = similar.values.clamp(min=1e-6) ** self.config.power
        shares = (weights / weights.sum()).detach().cpu().numpy()
        images = similar.indices.tolist()
        repeated = [caption for caption in captions for _ in images]
        values = self._cider(images * len(captions), repeated).reshape(len(captions), count)
        return [float(score) for score in values @ shares]


def _caption_words(split: CaptionSplit, index: int, tokenizer: Tokenizer) -> list[list[str]]:
    captions = [split_at_spaces(tokenizer.split(text)) for text in split.images[index].captions]
    return [words for words in captions if words]
