"""A decoder whose distribution depends on the image and on the whole prefix.

The state names the prefix, so a hypothesis that continues with the state of another one is seen.
"""

from dataclasses import dataclass

import torch

from captioning.decoding import SearchMethod
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.hypothesis import Hypothesis
from captioning.decoding.search import search

PAD, BOS, EOS = 0, 1, 2


@dataclass(frozen=True)
class TreeState:
    prefixes: tuple[tuple[int, ...], ...]
    images: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefixes)

    def select(self, rows, images=None) -> "TreeState":
        rows = rows.tolist()
        return TreeState(
            tuple(self.prefixes[row] for row in rows), tuple(self.images[row] for row in rows)
        )


class TreeDecoder:
    def __init__(self, *, seed: int, size: int = 6, sharpness: float = 1.5) -> None:
        self.seed, self.size, self.sharpness = seed, size, sharpness
        self._distributions: dict[tuple[int, ...], torch.Tensor] = {}

    def start(self, images) -> TreeState:
        return TreeState(((),) * len(images), tuple(images))

    def step(self, tokens, state):
        prefixes = tuple(
            (*prefix, token) for prefix, token in zip(state.prefixes, tokens.tolist(), strict=True)
        )
        assert all(prefix[0] == BOS for prefix in prefixes)
        rows = [
            self.distribution(image, prefix[1:])
            for image, prefix in zip(state.images, prefixes, strict=True)
        ]
        return torch.stack(rows), TreeState(prefixes, state.images)

    def distribution(self, image: int, words: tuple[int, ...]) -> torch.Tensor:
        key = (image, *words)
        if key not in self._distributions:
            generator = torch.Generator().manual_seed(abs(hash((self.seed, *key))) % 2**62)
            logits = torch.randn(self.size, generator=generator) * self.sharpness
            self._distributions[key] = logits.log_softmax(0)
        return self._distributions[key]

    def token_log_probs(self, image: int, hypothesis: Hypothesis) -> list[float]:
        tokens = (*hypothesis.tokens, EOS) if hypothesis.finished else hypothesis.tokens
        return [
            self.distribution(image, tokens[:t])[token].item() for t, token in enumerate(tokens)
        ]

    def log_prob(self, image: int, words: tuple[int, ...]) -> float:
        return sum(self.token_log_probs(image, Hypothesis(words, 0.0, 0.0, True, ())))

    def search(
        self, method: SearchMethod, images=(0,), *, banned=(PAD,), required=(), **options
    ) -> list[list[Hypothesis]]:
        constraints = TokenConstraints(BOS, EOS, tuple(banned), tuple(required))
        return search(self.step, self.start(images), method, constraints, **options)
