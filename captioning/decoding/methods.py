"""Search methods as values: what each does, and its settings.

This module does not import torch: the command line derives its search flags from these classes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from captioning.errors import ConfigError, SearchError
from captioning.json_data import choice_from_json
from captioning.short_repr import ShortRepr


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchMethod(ShortRepr):
    """The settings that all search methods share.

    Blocking repeated n-grams follows Paulus et al. (2018), section 2.5. Greedy and beam search
    meet ``required_words`` by a grid beam search (Hokamp & Liu 2017): one beam for each number of
    required words in a hypothesis, so that hypotheses with more of them are not pushed out by
    those with fewer. Sampling draws one of the missing words where a caption would end too early.
    """

    min_length: int = 1
    """Minimum number of words (0 to 10,000)."""
    max_length: int = 20
    """Maximum number of words (1 to 10,000); longer captions are cut off."""
    no_repeat_ngram: int = 0
    """Block repeated n-grams of this size (0 to 10,000; 0: off)."""
    block_repeated_words: bool = False
    """Block a word that equals one of the two words before it, as in "a a" or "dog and dog". Words
    that are further apart may repeat."""
    forbidden_words: tuple[str, ...] = ()
    """Words that captions must not contain."""
    required_words: tuple[str, ...] = ()
    """Words that captions must contain."""

    def __post_init__(self) -> None:
        _check_ranges(self, min_length=(0, 10_000), max_length=(1, 10_000))
        _check_ranges(self, no_repeat_ngram=(0, 10_000))
        if not isinstance(self.block_repeated_words, bool):
            raise ConfigError(
                f"block_repeated_words is {self.block_repeated_words!r}; it must be True or False."
            )
        if self.min_length > self.max_length:
            raise ConfigError(
                f"min_length is {self.min_length}, but max_length is {self.max_length}. "
                "Lower min_length or raise max_length."
            )
        self._check_words()

    def _check_words(self) -> None:
        for name in ("forbidden_words", "required_words"):
            words = getattr(self, name)
            if not isinstance(words, tuple) or not all(isinstance(w, str) and w for w in words):
                raise ConfigError(f"{name} is {words!r:.80}; it must be a tuple such as ('dog',).")
        required = set(self.required_words)
        if both := sorted(required.intersection(self.forbidden_words)):
            names = ", ".join(map(repr, both))
            are, them = ("is", "it") if len(both) == 1 else ("are", "them")
            raise ConfigError(
                f"{names:.200} {are} both required and forbidden. Remove {them} from one list."
            )
        if len(required) < len(self.required_words):
            raise ConfigError(
                f"required_words contains a word twice: {', '.join(self.required_words):.200}."
            )
        if len(required) > self.max_length:
            raise ConfigError(
                f"{len(required)} words are required, but max_length is {self.max_length}. "
                "Raise max_length or require fewer words."
            )

    @property
    def reranks(self) -> bool:
        """Whether the search needs a model with n-gram reranking."""
        return False

    @property
    def captions_per_image(self) -> int:
        """Largest number of captions that the search gives for an image."""
        return int(getattr(self, "n", 1))


@dataclass(frozen=True, kw_only=True, repr=False)
class Greedy(SearchMethod):
    """Take the most probable word at each step: beam search of width 1."""


@dataclass(frozen=True, kw_only=True, repr=False)
class BeamSearch(SearchMethod):
    """Keep the most probable hypotheses at each step.

    At each step, the ``width`` active hypotheses of an image are extended by every word and by
    ``<eos>``, and the candidates are ranked by log-probability. The best ``width`` candidates that
    end in a word stay active. Candidates that end in ``<eos>`` are finished if they are among the
    best ``width`` of all. The search of an image stops when no active hypothesis can still score
    higher than the ``n`` best finished ones.

    A finished hypothesis with log-probability L and T words scores ``L / (T + 1)**length_penalty``,
    where ``<eos>`` counts as a word (Wu et al. 2016, section 7, with the plain length in place of
    (5 + T) / 6). With ``rerank_weight``, the best ``width`` hypotheses are ranked again at the end
    by this score plus ``rerank_weight`` times their n-gram score.
    """

    width: int = 3
    """Beam width: active hypotheses per image; in diverse search, per group (1 to 10,000)."""
    length_penalty: float = 0.0
    """Divide log-probabilities by the caption length to this power (0 to 20). 0 prefers short
    captions; 1 ranks by the mean log-probability per word."""
    n: int = 1
    """Number of captions per image, best first (1 to 10,000; for sampling, 1 to 100,000).
    `evaluate` scores only the best."""
    rerank_weight: float = 0.0
    """Weight of n-gram reranking (0 to 1,000; 0: off). The model predicts n-grams from the image.
    The agreement of a caption with them (0 to 10), times this weight, is added to the score by
    which beam search ranks it. Needs a model with n-gram reranking, which `captioning train` adds
    by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ranges(self, width=(1, 10_000), n=(1, 10_000))
        _check_ranges(self, length_penalty=(0, 20), rerank_weight=(0, 1000))
        if self.n > self.width:
            raise ConfigError(
                f"n is {self.n}, but width is {self.width}: beam search returns at most "
                "that many captions. Raise width or lower n."
            )

    @property
    def reranks(self) -> bool:
        """Whether the search needs a model with n-gram reranking."""
        return self.rerank_weight > 0


@dataclass(frozen=True, kw_only=True, repr=False)
class DiverseBeamSearch(SearchMethod):
    """Run several beam searches that avoid each other's words (Vijayakumar et al. 2018).

    At each step the groups are extended one after the other. A group ranks a word lower by
    ``diversity_penalty`` for each hypothesis of an earlier group that has just been extended by the
    same word (Hamming diversity). Only the ranking changes: hypotheses keep the log-probability of
    the model, and the first group is plain beam search. Each group yields its best caption.
    """

    groups: int = 3
    """Number of beam searches (1 to 1,000); each yields one caption."""
    diversity_penalty: float = 0.5
    """Penalty, in nats, for a word that an earlier group chose at the same step (0 to
    1,000,000)."""
    width: int = 1
    """Beam width of each group (1 to 10,000)."""
    length_penalty: float = 0.0
    """Divide log-probabilities by the caption length to this power (0 to 20)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ranges(self, groups=(1, 1000), width=(1, 10_000))
        _check_ranges(self, diversity_penalty=(0, 1_000_000), length_penalty=(0, 20))

    @property
    def captions_per_image(self) -> int:
        """The number of groups."""
        return self.groups


@dataclass(frozen=True, kw_only=True, repr=False)
class Sampling(SearchMethod):
    """Draw each word at random from the model's distribution.

    The probabilities are raised to the power ``1 / temperature`` and normalized, then reduced to
    the ``top_k`` most probable words (Fan et al. 2018), then to the smallest set of words that has
    at least the share ``top_p`` of the remaining probability (Holtzman et al. 2020).
    """

    temperature: float = 1.0
    """Temperature (1e-06 to 1,000,000). Below 1 sharpens the distribution; above 1 flattens it."""
    top_k: int = 0
    """Number of most probable words to sample from (0 to 1,000,000; 0: all)."""
    top_p: float = 1.0
    """Sample from the smallest set of words whose total probability is at least this number (above
    0, at most 1)."""
    n: int = 1
    """Number of captions per image, most probable first (1 to 100,000)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Below the lower bound, logits divided by the temperature overflow 32-bit floats.
        _check_ranges(self, temperature=(1e-6, 1_000_000), top_k=(0, 1_000_000), top_p=(0, 1))
        _check_ranges(self, n=(1, 100_000))
        if self.top_p == 0:
            raise ConfigError(
                "top_p is 0; it must be above 0. For the best word, use greedy search."
            )


METHODS: dict[str, type[SearchMethod]] = {
    "greedy": Greedy,
    "beam": BeamSearch,
    "diverse": DiverseBeamSearch,
    "sampling": Sampling,
}
"""The search methods by name, in files and on the command line."""


def check_method(method: object) -> None:
    """Check that an argument is a search method.

    Raises:
        SearchError: It is something else, such as a class or a name.
    """
    if not isinstance(method, tuple(METHODS.values())):
        kinds = ", ".join(kind.__name__ for kind in METHODS.values())
        raise SearchError(
            f"search is {method!r:.80}; it must be one of {kinds}, such as BeamSearch(width=5)."
        )


def search_to_json(method: SearchMethod) -> dict[str, Any]:
    """Return a search as JSON data: its name under ``"method"``, and every setting."""
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(method).items()}
    name = next(name for name, kind in METHODS.items() if type(method) is kind)
    return {"method": name, **settings}


def search_from_json(content: Mapping[str, Any], *, source: str = "search") -> SearchMethod:
    """Return the search that :func:`search_to_json` wrote; missing settings get their defaults.

    Args:
        content: A JSON object.
        source: Its origin, for error messages.

    Raises:
        ConfigError: The method or a setting is unknown, or a value is out of range.
    """
    return choice_from_json(content, METHODS, tag="method", source=source)


def change_search(
    own: SearchMethod, method: type[SearchMethod], settings: Mapping[str, Any]
) -> SearchMethod:
    """Return a search with other settings, or another method with the settings that both share.

    ``n`` without ``width`` widens a beam if necessary.

    Args:
        own: The search to start from.
        method: Class of the result.
        settings: Settings of this class.

    Raises:
        ConfigError: A value is out of range.
    """
    if method is not type(own):
        own = method(**{field.name: getattr(own, field.name) for field in fields(SearchMethod)})
    if isinstance(own, BeamSearch) and "n" in settings and "width" not in settings:
        settings = {**settings, "width": max(own.width, settings["n"])}
    return replace(own, **settings)


def _check_ranges(method: SearchMethod, **ranges: tuple[int | float, int | float]) -> None:
    """Check numbers against inclusive ranges; fields with an integer default hold integers.

    The upper bounds are where memory or the range of 32-bit floats ends.

    Raises:
        ConfigError: A value is not a number of the right type, or out of its range.
    """
    for name, (low, high) in ranges.items():
        value, whole = getattr(method, name), isinstance(getattr(type(method), name), int)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise ConfigError(f"{name} is {value!r}; it must be {kind} from {low:,} to {high:,}.")
