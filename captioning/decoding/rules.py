"""Which words may come next."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioning.decoding.methods import SearchMethod
from captioning.errors import SearchError

NEVER = -torch.inf


@dataclass(frozen=True)
class Rules:
    """The wishes of a search, ready for the device it runs on.

    Attributes:
        how: The search with its settings.
        bos: The token that every caption begins with; it is never emitted.
        eos: The token that ends a caption.
        never: Tokens that are never emitted.
        required: Tokens that every caption holds, C of them.
    """

    how: SearchMethod
    bos: int
    eos: int
    never: Int[Tensor, " X"]
    required: Int[Tensor, " C"]

    @classmethod
    def build(
        cls, how: SearchMethod, bos: int, eos: int, banned: Sequence[int], device: torch.device
    ) -> "Rules":
        """Join the settings with the tokens that no caption may hold.

        Raises:
            SearchError: A required word or ``<eos>`` is among the tokens never emitted.
        """
        if eos in banned or eos in how.forbidden_words:
            raise SearchError(f"The end token {eos} is forbidden: no caption could end. Allow it.")
        never = sorted({*banned, *how.forbidden_words, bos} - {eos})
        if clash := sorted(set(how.required_words) & {*never, eos}):
            raise SearchError(
                f"Required words {clash} are special tokens, which no caption holds: words that "
                "the model does not know? Require other words."
            )
        return cls(
            how,
            bos,
            eos,
            torch.tensor(never, dtype=torch.long, device=device),
            torch.tensor(how.required_words, dtype=torch.long, device=device),
        )

    def check(self, log_probs: Tensor, rows: int) -> Float[Tensor, "N V"]:
        """Return what the first step gave, found usable, in 32-bit numbers or longer.

        Raises:
            SearchError: It has another shape, too few words for the tokens named, or is not a
                number.
        """
        if log_probs.ndim != 2 or len(log_probs) != rows:
            raise SearchError(
                f"The step function returned log-probabilities of shape "
                f"{tuple(log_probs.shape)} for {rows} rows; ({rows}, words) was expected."
            )
        highest = max([self.eos, *self.never.tolist(), *self.required.tolist()])
        if highest >= log_probs.shape[1]:
            raise SearchError(
                f"Token {highest} is named in the search, but the model has "
                f"{log_probs.shape[1]} words. Do the vocabulary and the model belong together?"
            )
        if log_probs.isnan().any():
            raise SearchError(
                "The step function returned log-probabilities that are not numbers (NaN). "
                "Are the model's weights damaged, or is an image's feature vector not finite?"
            )
        return log_probs

    def apply_(
        self, scores: Float[Tensor, "N V"], history: Int[Tensor, "N t"]
    ) -> Float[Tensor, "N V"]:
        """Set the scores of words that may not follow ``history`` to minus infinity, in place."""
        scores.index_fill_(1, self.never, NEVER)
        if history.shape[1] < self.how.min_length:
            scores[:, self.eos] = NEVER
        if self.how.no_double_word and history.shape[1]:
            scores.scatter_(1, history[:, -2:], NEVER)  # the last two words
        n = self.how.no_repeat_ngram
        if n and history.shape[1] >= n:
            # Every n-gram so far whose first n - 1 words are the last n - 1 words blocks its last.
            ngrams = history.unfold(1, n, 1)
            latest = history[:, history.shape[1] - n + 1 :].unsqueeze(1)
            repeats = (ngrams[:, :, :-1] == latest).all(2)
            cost = torch.zeros_like(repeats, dtype=scores.dtype).masked_fill_(repeats, NEVER)
            scores.scatter_add_(1, ngrams[:, :, -1], cost)
        return scores

    def nothing_found(self, image: int) -> SearchError:
        """Return the error of an image for which no caption meets all wishes."""
        return SearchError(
            f"No caption of image {image} of the batch meets all wishes of {self.how}. "
            "Loosen one: a longer max_length, no no_repeat_ngram or no_double_word, fewer required "
            "words."
        )
