"""A decoder in which every prefix of every image has a distribution of its own.

The state names the prefix, so a hypothesis that inherits the state of another is found out.
"""

from dataclasses import dataclass

import torch

PAD, BOS, EOS = 0, 1, 2


@dataclass(frozen=True)
class TreeState:
    prefixes: tuple[tuple[int, ...], ...]
    images: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefixes)

    def select(self, rows) -> "TreeState":
        rows = rows.tolist()
        return TreeState(
            tuple(self.prefixes[row] for row in rows), tuple(self.images[row] for row in rows)
        )


class TreeDecoder:
    def __init__(self, *, seed: int, size: int = 6, sharpness: float = 1.5) -> None:
        self.seed, self.size, self.sharpness = seed, size, sharpness
        self.calls = 0
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def start(self, images) -> TreeState:
        return TreeState(((),) * len(images), tuple(images))

    def step(self, tokens, state):
        self.calls += 1
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
        if key not in self._known:
            generator = torch.Generator().manual_seed(abs(hash((self.seed, *key))) % 2**62)
            logits = torch.randn(self.size, generator=generator) * self.sharpness
            self._known[key] = logits.log_softmax(0)
        return self._known[key]

    def log_prob(self, image: int, words: tuple[int, ...]) -> float:
        tokens = (*words, EOS)
        return sum(
            self.distribution(image, tokens[:t])[token].item() for t, token in enumerate(tokens)
        )
