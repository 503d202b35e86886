"""The ways to search, as values: what each does, and its settings."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from captioning.errors import ConfigError
from captioning.messages import suggest

MOST = {
    **{"max_length": 10_000, "width": 10_000, "groups": 1000, "n": 100_000},
    **{"length_penalty": 20, "strength": 1e6, "temperature": 1e6, "rerank_weight": 1e3},
}
"""Beyond these, memory or the range of 32-bit numbers ends before a search does."""
LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True, kw_only=True)
class SearchMethod:
    """The wishes that every way of searching honours. Words are given by their ids."""

    min_length: int = 1
    """Words at least; ``<eos>`` is not offered before."""
    max_length: int = 20
    """Words at most; a caption that is still going then is cut."""
    no_repeat_ngram: int = 0
    """No sequence of this many words occurs twice in a caption (Paulus et al. 2018, section 2.5);
    0 for no such rule."""
    no_double_word: bool = False
    """No word comes twice in a row, nor with one other word between: not "a man sitting sitting on
    a bench", not "a boy wearing sunglasses and sunglasses", and so not "side by side" either."""
    forbidden_words: tuple[int, ...] = ()
    """Words that never occur."""
    required_words: tuple[int, ...] = ()
    """Words that all occur. Greedy and beam search run a grid beam search (Hokamp & Liu 2017): one
    beam for each number of required words met so far, so that a caption does not lose to those that
    have yet to say them. Sampling: where a caption would end too soon, one of the words that it
    lacks is drawn in place of ``<eos>``."""

    def __post_init__(self) -> None:
        self._check_counts(min_length=0, max_length=1, no_repeat_ngram=0)
        if not isinstance(self.no_double_word, bool):
            raise ConfigError(f"no_double_word is {self.no_double_word!r}; it is true or false.")
        for name, most in MOST.items():
            value: Any = getattr(self, name, None)
            if _is_number(value) and value > most:
                raise ConfigError(f"{name} is {value}; it is at most {most}.")
        if self.min_length > self.max_length:
            raise ConfigError(
                f"min_length is {self.min_length} and max_length {self.max_length}; "
                "no caption is both as long and as short. Lower min_length or raise max_length."
            )
        for name in ("forbidden_words", "required_words"):
            for word in getattr(self, name):
                if not _is_integer(word) or word < 0:
                    raise ConfigError(
                        f"{name} holds {word!r}; at this level words are ids, whole numbers from "
                        "0. Look them up with Vocabulary.id."
                    )
        if both := sorted(set(self.forbidden_words) & set(self.required_words)):
            raise ConfigError(
                f"Words {both} are both required and forbidden. Take them out of one of the lists."
            )
        if len(set(self.required_words)) < len(self.required_words):
            raise ConfigError(
                f"required_words holds a word twice: {list(self.required_words)}. Name each once."
            )
        if len(self.required_words) > self.max_length:
            raise ConfigError(
                f"{len(self.required_words)} words are required, but max_length is "
                f"{self.max_length}. Raise max_length or require fewer words."
            )

    @property
    def reranks(self) -> bool:
        """Whether it ranks by phrases, which a model has to have learned."""
        return False

    def _check_counts(self, **least: int) -> None:
        for name, bound in least.items():
            value = getattr(self, name)
            if not _is_integer(value) or value < bound:
                raise ConfigError(f"{name} is {value!r}; it is a whole number, at least {bound}.")

    def _check_number(self, name: str, allowed: bool, wanted: str) -> None:
        if not allowed:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it is {wanted}.")


@dataclass(frozen=True, kw_only=True)
class Greedy(SearchMethod):
    """The most probable word at each step: beam search of width 1."""


@dataclass(frozen=True, kw_only=True)
class BeamSearch(SearchMethod):
    """Keep the best few beginnings at each step.

    At each step, an image's ``width`` unfinished hypotheses are continued by every word and by
    ``<eos>``, and the candidates are ranked by log-probability. The best ``width`` of those that
    end in a word go on; those that end in ``<eos>`` are finished if they are among the best
    ``width`` of all. The image is done when its ``n`` best finished hypotheses score at least as
    high as any unfinished one still can.

    A finished hypothesis of log-probability L and T words scores ``L / (T + 1)**length_penalty``,
    ``<eos>`` counted (Wu et al. 2016, section 7, with plain length in place of (5 + T) / 6). With
    ``rerank_weight`` the ``width`` best are ranked anew at the end, by that score and the weight
    times their agreement.
    """

    width: int = 3
    """Unfinished hypotheses kept for each image."""
    length_penalty: float = 0.0
    """The exponent of the length: 0 ranks by log-probability, which favours short captions; 1 ranks
    by the mean log-probability per word."""
    n: int = 1
    """Captions returned for each image, best first."""
    rerank_weight: float = 0.0
    """What the agreement with the phrases that an image makes likely counts in the ranking of what
    the beam found (:class:`captioning.reranking.ngram.NgramReranker`); a model has to have learned
    them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts(width=1, n=1)
        self._check_number(
            "rerank_weight",
            _is_number(self.rerank_weight) and self.rerank_weight >= 0,
            "a finite number, at least 0",
        )
        penalty = self.length_penalty
        self._check_number(
            "length_penalty", _is_number(penalty) and penalty >= 0, "a finite number, at least 0"
        )
        if self.n > self.width:
            raise ConfigError(
                f"n is {self.n} and width {self.width}; a beam gives at most as many captions as "
                "it is wide. Raise width or lower n."
            )

    @property
    def reranks(self) -> bool:
        """Whether phrases weigh anything in the ranking."""
        return self.rerank_weight > 0


@dataclass(frozen=True, kw_only=True)
class DiverseBeamSearch(SearchMethod):
    """Several beam searches that avoid each other's words (Vijayakumar et al. 2018).

    The groups take each step one after the other. A group ranks a word lower by ``strength`` for
    each hypothesis of the groups before it that has just chosen the same word (Hamming diversity).
    This moves the choice alone: hypotheses keep the model's log-probability, and the first group
    is plain beam search. Each group returns its best caption.
    """

    groups: int = 3
    """Beam searches, and captions returned for each image, best first."""
    strength: float = 0.5
    """What it costs, in nats, to choose the word of another group."""
    width: int = 1
    """Unfinished hypotheses kept by each group."""
    length_penalty: float = 0.0
    """As in beam search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts(groups=1, width=1)
        for name in ("strength", "length_penalty"):
            value = getattr(self, name)
            self._check_number(
                name, _is_number(value) and value >= 0, "a finite number, at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class Sampling(SearchMethod):
    """Draw each word at random from what the model thinks comes next.

    The probabilities are first raised to the power ``1 / temperature`` and normalised, then cut to
    the ``top_k`` most probable words (Fan et al. 2018), then to the fewest whose share of what is
    left is at least ``top_p`` (Holtzman et al. 2020).
    """

    temperature: float = 1.0
    """Below 1 sharpens the distribution, above 1 flattens it."""
    top_k: int = 0
    """Draw from this many most probable words; 0 for all."""
    top_p: float = 1.0
    """Draw from the most probable words that together have this probability; 1 for all."""
    n: int = 1
    """Captions drawn for each image; they are returned by falling log-probability."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts(top_k=0, n=1)
        self._check_number(
            "temperature",
            _is_number(self.temperature) and self.temperature > 0,
            "a finite number above 0; use Greedy for the most probable words",
        )
        if self.temperature < LEAST_TEMPERATURE:
            raise ConfigError(
                f"temperature is {self.temperature}; it is at least {LEAST_TEMPERATURE}. "
                "Use Greedy for the most probable words."
            )
        self._check_number(
            "top_p",
            _is_number(self.top_p) and 0 < self.top_p <= 1,
            "a number above 0 and at most 1",
        )


METHODS: dict[str, type[SearchMethod]] = {
    "greedy": Greedy,
    "beam_search": BeamSearch,
    "diverse_beam_search": DiverseBeamSearch,
    "sampling": Sampling,
}


def search_to_json(how: SearchMethod) -> dict[str, Any]:
    """Return ``how`` as what JSON can hold: the name under ``"method"``, and every setting."""
    name = next(name for name, kind in METHODS.items() if type(how) is kind)
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(how).items()}
    return {"method": name, **settings}


def search_from_json(content: dict[str, Any]) -> SearchMethod:
    """Return the search that :func:`search_to_json` wrote; a setting left out has its default.

    Raises:
        ConfigError: The method or a setting is unknown, or a value makes no sense.
    """
    name = content.get("method")
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(
            f"The search method is {name!r}; it is one of {', '.join(METHODS)}."
            f"{suggest(str(name), METHODS)}"
        )
    kind = METHODS[name]
    known = [entry.name for entry in fields(kind)]
    settings = {key: value for key, value in content.items() if key != "method"}
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"{key!r} is no setting of {name}; there are {', '.join(known)}."
                f"{suggest(key, known)}"
            )
    for key in {"forbidden_words", "required_words"} & set(settings):
        if not isinstance(settings[key], list | tuple):
            raise ConfigError(f"{key} is {settings[key]!r}; it is a list of word ids.")
        settings[key] = tuple(settings[key])
    return kind(**settings)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
