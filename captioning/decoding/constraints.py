"""Constraints on captions: which tokens may come next, and which must occur."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.decoding.methods import SearchMethod, check_method
from captioning.errors import ConfigError, SearchError
from captioning.messages import suggest
from captioning.text.vocabulary import NEVER_GENERATED, SPECIALS, Vocabulary

IMPOSSIBLE = -torch.inf


@dataclass(frozen=True)
class TokenConstraints:
    """The tokens that a search treats specially, by their ids.

    Attributes:
        bos: Token before the first word; it is never generated.
        eos: Token that ends a caption.
        banned: Tokens that are never generated.
        required: Tokens that every caption contains.

    Raises:
        SearchError: ``eos`` is banned, or a required token is never generated.
    """

    bos: int
    eos: int
    banned: tuple[int, ...] = ()
    required: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.eos in self.banned:
            raise SearchError(f"end token {self.eos} is banned: no caption could end. Allow it.")
        if clash := sorted({self.bos, self.eos, *self.banned}.intersection(self.required)):
            raise SearchError(f"required tokens {clash} are never generated. Remove them.")
        if len(set(self.required)) < len(self.required):
            raise SearchError(
                f"required tokens {list(self.required)} contain one twice. Remove it."
            )

    @classmethod
    def resolve(cls, method: SearchMethod, vocabulary: Vocabulary) -> "TokenConstraints":
        """Return the constraints of a search on the tokens of a vocabulary.

        Raises:
            SearchError: ``method`` is not a search method.
            ConfigError: The vocabulary does not have a required or forbidden word.
        """
        check_method(method)
        known = set(vocabulary.words) - set(SPECIALS)
        for name in ("required_words", "forbidden_words"):
            if unknown := [word for word in getattr(method, name) if word not in known]:
                raise ConfigError(
                    f"{name} has unknown words: the model does not know "
                    f"{', '.join(map(repr, unknown))}."
                    f"{suggest(unknown[0], known)} Remove unknown words; words are lower case."
                )
        forbidden = (vocabulary.id(word) for word in method.forbidden_words)
        return cls(
            bos=vocabulary.bos,
            eos=vocabulary.eos,
            banned=(*NEVER_GENERATED, *forbidden),
            required=tuple(vocabulary.id(word) for word in method.required_words),
        )


@dataclass(frozen=True)
class TokenRules:
    """Which tokens may come next in a search, and its errors.

    Attributes:
        method: The search and its settings.
        bos: Token before the first word.
        eos: Token that ends a caption.
        banned: Tokens that are never generated.
        required: Tokens that every caption contains, C of them.
    """

    method: SearchMethod
    bos: int
    eos: int
    banned: Int[Tensor, " X"]
    required: Int[Tensor, " C"]

    @classmethod
    def build(
        cls, method: SearchMethod, constraints: TokenConstraints, device: torch.device
    ) -> "TokenRules":
        """Move the constraints to the device of the search.

        Raises:
            SearchError: The constraints were not resolved from ``method``, or require more tokens
                than a caption can have.
        """
        words = len(method.required_words), len(method.forbidden_words)
        if len(constraints.required) < words[0] or len(constraints.banned) < words[1]:
            raise SearchError(
                "the search has required or forbidden words that the constraints do not have. Use "
                "TokenConstraints.resolve(method, vocabulary)."
            )
        if len(constraints.required) > method.max_length:
            raise SearchError(
                f"{len(constraints.required)} tokens are required, but max_length is "
                f"{method.max_length}."
            )
        banned = sorted({constraints.bos, *constraints.banned})
        return cls(
            method,
            constraints.bos,
            constraints.eos,
            torch.tensor(banned, dtype=torch.long, device=device),
            torch.tensor(constraints.required, dtype=torch.long, device=device),
        )

    def check_log_probs(self, log_probs: Tensor, rows: int) -> Float[Tensor, "N V"]:
        """Return the output of the first step after a check.

        Raises:
            SearchError: The shape is wrong, a constrained token is outside the vocabulary, or a
                value is NaN.
        """
        if log_probs.ndim != 2 or len(log_probs) != rows:
            raise SearchError(
                f"step function returned log-probabilities of shape {tuple(log_probs.shape)}; "
                f"({rows}, words) was expected."
            )
        highest = max([self.eos, *self.banned.tolist(), *self.required.tolist()])
        if highest >= log_probs.shape[1]:
            raise SearchError(
                f"the search uses the token id {highest}, but the model has only "
                f"{log_probs.shape[1]} words. Use the vocabulary of the model."
            )
        if log_probs.isnan().any():
            raise SearchError(
                "step function returned NaN. Check the model's weights and the image features."
            )
        return log_probs

    def apply_(
        self, scores: Float[Tensor, "N V"], history: Int[Tensor, "N t"]
    ) -> Float[Tensor, "N V"]:
        """Set the scores of tokens that may not follow ``history`` to minus infinity, in place."""
        scores.index_fill_(1, self.banned, IMPOSSIBLE)
        if history.shape[1] < self.method.min_length:
            scores[:, self.eos] = IMPOSSIBLE
        if self.method.block_repeated_words and history.shape[1]:
            scores.scatter_(1, history[:, -2:], IMPOSSIBLE)
        n = self.method.no_repeat_ngram
        if n and history.shape[1] >= n:
            # If the latest n - 1 words begin an earlier n-gram, its last word is blocked.
            ngrams = history.unfold(1, n, 1)
            latest = history[:, history.shape[1] - n + 1 :].unsqueeze(1)
            repeats = (ngrams[:, :, :-1] == latest).all(2)
            cost = torch.zeros_like(repeats, dtype=scores.dtype).masked_fill_(repeats, IMPOSSIBLE)
            scores.scatter_add_(1, ngrams[:, :, -1], cost)
        return scores

    def no_caption_error(self, image: int) -> SearchError:
        """Return the error for an image without any caption that meets the constraints."""
        return SearchError(
            f"image {image} of the batch: no caption meets the constraints of {self.method}. "
            "Raise max_length, require fewer words, or turn off no_repeat_ngram or "
            "block_repeated_words."
        )
