"""Self-critical training: raise the probability of captions with a high score."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from captioning.datasets.batches import find_hflip_tokens
from captioning.decoding import Greedy, Sampling
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.hypothesis import Hypothesis
from captioning.decoding.search import search
from captioning.metrics.bleu import compute_bleu, count_bleu
from captioning.metrics.reward import CiderReward
from captioning.nn.decoder import Decoder
from captioning.nn.dropout import Dropout
from captioning.nn.features import Features
from captioning.nn.losses import CaptionLoss
from captioning.nn.shared_draws import draw_rows
from captioning.text.caption_arrays import CaptionWords
from captioning.text.ngrams import count_ngrams
from captioning.text.vocabulary import EOS, NEVER_GENERATED, Vocabulary
from captioning.track import OnProgress
from captioning.training.training_config import SelfCriticalConfig

_BLEU_4 = 3


class SelfCriticalObjective:
    """Policy gradient of the reward of sampled captions (Rennie et al. 2017, equations 6-9).

    Several captions w are sampled for each image. With their rewards r(w) and a baseline b, the
    loss is the mean over all words w_t of these captions of::

        -(r(w) - b) log p(w_t | w_<t, v)

    The baseline ``greedy`` is that of the paper: the reward of the greedy caption. The baseline
    ``leave_one_out`` is the mean reward of the other samples of the image (Kool et al. 2019; Luo
    2020), which needs no second search.

    The reward is CIDEr-D as the scorer computes it, but with ``<eos>`` as a word of captions and
    references. Without it, models learn to end with "with a" or "of a": these common n-grams add
    to the score, and cost nothing.

    p is the distribution that is sampled from: without dropout in the decoder, and without words
    that search never emits. ``<unk>`` would otherwise gain the probability that low-reward
    captions lose, because it is never sampled (docs/experiments.md, 2026-11-25).
    ``feature_dropout`` is applied before sampling, so samples, baseline and p see the same
    features. Captions of a flipped image are scored with "left" and "right" swapped.

    Args:
        references: Captions of each training image.
        vocabulary: Words of the decoder.
        config: Samples, baseline, and rewards.
        on_progress: As for :class:`CiderReward`.

    Raises:
        ScoreError: Fewer than two images have captions.
    """

    def __init__(
        self,
        references: CaptionWords,
        vocabulary: Vocabulary,
        config: SelfCriticalConfig,
        on_progress: OnProgress = lambda done, total: None,
    ) -> None:
        self.vocabulary = vocabulary
        self.config = config
        self.references = references.append(EOS)
        self.cider = CiderReward(self.references, on_progress)
        self.hflip_tokens = find_hflip_tokens(vocabulary)
        self.feature_dropout = Dropout(config.feature_dropout)

    def loss(
        self,
        decoder: Decoder,
        features: Features,
        images: Int[Tensor, " B"],
        flipped: Int[Tensor, " B"],
    ) -> CaptionLoss:
        """Sample captions, compute their rewards, and return the loss with its graph.

        Args:
            decoder: In evaluation mode during the call; its mode is restored.
            features: Features of the images.
            images: Row of each image in the training split.
            flipped: 1 for each image whose features are those of a flipped view.
        """
        was_training = decoder.training
        decoder.eval()
        features = features.masked(self.feature_dropout(torch.ones_like(features.vector)))
        samples, advantage, reward = self._sample(decoder, features, images, flipped)
        log_probs, caption = self._log_probs(decoder, features, samples)
        decoder.train(was_training)
        weight = advantage.to(log_probs)[caption]
        loss = -(weight * log_probs).mean()
        return CaptionLoss(loss, -log_probs.detach().mean(), len(log_probs), reward=reward)

    def _sample(
        self,
        decoder: Decoder,
        features: Features,
        images: Int[Tensor, " B"],
        flipped: Int[Tensor, " B"],
    ) -> tuple[list[Hypothesis], Tensor, float]:
        """Return samples, their rewards minus the baseline, and the mean reward."""
        n, max_length = self.config.samples, self.config.max_length
        grid = None if features.grid is None else features.grid.detach()
        detached = replace(features, vector=features.vector.detach(), grid=grid)
        samples = self._search(decoder, detached, Sampling(n=n, max_length=max_length))
        rows = [row for row in images.tolist() for _ in range(n)]
        flips = [flip for flip in flipped.tolist() for _ in range(n)]
        rewards = self.rewards(rows, samples, flips).reshape(len(images), n)
        if self.config.baseline == "greedy":
            greedy = self._search(decoder, detached, Greedy(max_length=max_length))
            baseline = self.rewards(images.tolist(), greedy, flipped.tolist())[:, None]
        else:
            baseline = (rewards.sum(1, keepdims=True) - rewards) / (n - 1)
        return samples, torch.from_numpy(rewards - baseline).flatten(), float(rewards.mean())

    def rewards(
        self,
        images: Sequence[int],
        captions: Sequence[Hypothesis],
        flipped: Sequence[int] | None = None,
    ) -> Float[np.ndarray, " captions"]:
        """Return the reward of each caption against the references of its image.

        Args:
            images: Row in the training split of the image of each caption.
            captions: The captions.
            flipped: 1 for each caption of a flipped image. None: no image is flipped.
        """
        flips = flipped or [0] * len(captions)
        words = [self._words(caption, flip) for caption, flip in zip(captions, flips, strict=True)]
        rewards = self.cider(images, words)
        if self.config.bleu_weight:
            rewards = rewards + self.config.bleu_weight * self._bleu_4(images, words)
        return rewards

    def _words(self, caption: Hypothesis, flip: int) -> tuple[str, ...]:
        swaps = self.hflip_tokens if flip else {}
        words = tuple(self.vocabulary.words[swaps.get(token, token)] for token in caption.tokens)
        return (*words, EOS) if caption.finished else words

    def _bleu_4(
        self, images: Sequence[int], captions: Sequence[tuple[str, ...]]
    ) -> Float[np.ndarray, " captions"]:
        references = [self.references.of_image(image) for image in images]
        words = [list(caption) for caption in captions]
        words += [reference for group in references for reference in group]
        caption = np.arange(len(captions))
        owner = np.concatenate([caption, np.repeat(caption, [len(r) for r in references])])
        lengths = np.array([len(text) for text in words])
        counts = count_bleu(count_ngrams(words), lengths, owner, len(captions))
        return compute_bleu(counts)[:, _BLEU_4]

    def _search(
        self, decoder: Decoder, features: Features, method: Sampling | Greedy
    ) -> list[Hypothesis]:
        constraints = TokenConstraints.resolve(method, self.vocabulary)
        keys = draw_rows("images", len(features), torch.arange)  # numbers of the images
        with torch.no_grad():
            found = search(decoder.step, decoder.start(features), method, constraints, keys=keys)
        return [caption for captions in found for caption in captions]

    def _log_probs(
        self, decoder: Decoder, features: Features, captions: Sequence[Hypothesis]
    ) -> tuple[Float[Tensor, " M"], Int[Tensor, " M"]]:
        """Return the log-probability of each of ``M`` sampled words, and its caption's index."""
        vocabulary, device = self.vocabulary, features.vector.device
        tokens = [
            [*caption.tokens, *([vocabulary.eos] if caption.finished else [])]
            for caption in captions
        ]
        inputs = [torch.tensor([vocabulary.bos, *words[:-1]]) for words in tokens]
        owners = [torch.full((len(words),), number) for number, words in enumerate(tokens)]
        packed = pack_sequence(inputs, enforce_sorted=False)
        packed = packed.to(device)  # type: ignore[arg-type]
        targets = pack_sequence([torch.tensor(words) for words in tokens], enforce_sorted=False)
        caption = pack_sequence(owners, enforce_sorted=False).data.to(device)
        image = torch.arange(len(features), device=device)
        image = image.repeat_interleave(len(captions) // len(features))
        logits = decoder(features, packed, image).float()
        excluded = torch.tensor(NEVER_GENERATED, device=device)
        log_probs = torch.log_softmax(logits.index_fill(1, excluded, -torch.inf), 1)
        return log_probs.gather(1, targets.data.to(device).unsqueeze(1)).squeeze(1), caption
