"""Self-critical training: captions that score above others are made likelier."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from captioning.datasets.batches import mirror_words
from captioning.decoding import Greedy, Sampling
from captioning.decoding.constraints import TokenConstraints
from captioning.decoding.hypothesis import Hypothesis
from captioning.decoding.search import search
from captioning.metrics.bleu import compute_bleu, count_bleu
from captioning.metrics.ngrams import count_ngrams
from captioning.metrics.reward import CiderReward
from captioning.nn.decoder import Decoder
from captioning.nn.dropout import Dropout
from captioning.nn.features import Features
from captioning.nn.losses import CaptionLoss
from captioning.text.vocabulary import EOS, NEVER_GENERATED, Vocabulary
from captioning.training.config import SelfCriticalConfig

_BLEU_4 = 3


class SelfCritical:
    """The policy gradient of a caption's score (Rennie et al. 2017, equations 6-9).

    For each image several captions w are sampled and scored; with their rewards r(w) and a
    baseline b, what is minimised is, per sampled word::

        loss = -(r(w) - b) sum_t log p(w_t | w_<t, v)

    The paper's baseline is the reward of the greedy caption. The other one here is the mean reward
    of the image's *other* samples (Kool et al. 2019; Luo 2020): it needs no second search.

    The reward is CIDEr-D exactly as the scorer computes it, but on captions that end in ``<eos>``,
    as the references then do: without that mark, models learn to end on "with a" or "of a", whose
    words cost nothing and whose n-grams are common.

    p is the distribution that is sampled from: without dropout in the decoder, and without the
    words that search never emits. If ``<unk>`` had a share in it, it would collect the probability
    that losing captions give up, since it is never sampled and so never loses
    (docs/experiments.md, 2026-11-25). ``feature_dropout`` hides a part of the image before
    anything is sampled, so that samples, baseline and p see the same. In captions of a mirrored
    image, "left" and "right" change places before they are scored.

    Args:
        references: For each image of the training split its captions as words.
        vocabulary: The decoder's words.
        config: How many samples, which baseline, what mixture of rewards.

    Raises:
        ScoreError: Fewer than two images have captions.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Sequence[str]]],
        vocabulary: Vocabulary,
        config: SelfCriticalConfig,
    ) -> None:
        self.vocabulary = vocabulary
        self.config = config
        self.references = {
            image: [(*caption, EOS) for caption in captions if caption]
            for image, captions in enumerate(references)
            if any(captions)
        }
        self.cider = CiderReward(self.references)
        self.sides = mirror_words(vocabulary)
        self.hide = Dropout(config.feature_dropout)

    def loss(
        self,
        decoder: Decoder,
        features: Features,
        images: Int[Tensor, " B"],
        mirrored: Int[Tensor, " B"],
    ) -> CaptionLoss:
        """Sample captions of some images, score them, and return the loss with its graph.

        Args:
            decoder: Put into evaluation mode for the time of the call.
            features: Of the images.
            images: Their places in the training split.
            mirrored: 1 for each image whose features are those of its mirror image.
        """
        was_training = decoder.training
        decoder.eval()
        n = self.config.samples
        features = features.masked(self.hide(torch.ones_like(features.vector)))
        still = Features(
            features.vector.detach(), None if features.grid is None else features.grid.detach()
        )
        drawn = self._search(decoder, still, Sampling(n=n, max_length=self.config.max_length))
        places = [place for place in images.tolist() for _ in range(n)]
        flips = [flip for flip in mirrored.tolist() for _ in range(n)]
        rewards = self.rewards(places, drawn, flips).reshape(len(images), n)
        if self.config.baseline == "greedy":
            greedy = self._search(decoder, still, Greedy(max_length=self.config.max_length))
            baseline = self.rewards(images.tolist(), greedy, mirrored.tolist())[:, None]
        else:
            baseline = (rewards.sum(1, keepdims=True) - rewards) / (n - 1)
        advantage = torch.from_numpy(rewards - baseline).flatten()
        log_probs, caption = self._log_probs(decoder, features, drawn)
        decoder.train(was_training)
        weight = advantage.to(log_probs)[caption]
        loss = -(weight * log_probs).mean()
        return CaptionLoss(
            loss, -log_probs.detach().mean(), len(log_probs), reward=float(rewards.mean())
        )

    def rewards(
        self,
        images: Sequence[int],
        captions: Sequence[Hypothesis],
        mirrored: Sequence[int] | None = None,
    ) -> Float[np.ndarray, " captions"]:
        """Return the reward of each caption against the references of its image.

        Args:
            images: The image of each caption, by its place in the training split.
            captions: What was said.
            mirrored: 1 for each caption of a mirrored image; None where there is none.
        """
        flips = mirrored or [0] * len(captions)
        words = [self._words(caption, flip) for caption, flip in zip(captions, flips, strict=True)]
        found = self.cider(images, words)
        if self.config.bleu_weight:
            found = found + self.config.bleu_weight * self._bleu_4(images, words)
        return found

    def _words(self, caption: Hypothesis, flip: int) -> tuple[str, ...]:
        sides = self.sides if flip else {}
        words = tuple(self.vocabulary.words[sides.get(token, token)] for token in caption.tokens)
        return (*words, EOS) if caption.finished else words

    def _bleu_4(
        self, images: Sequence[int], captions: Sequence[tuple[str, ...]]
    ) -> Float[np.ndarray, " captions"]:
        references = [self.references[image] for image in images]
        words = [list(caption) for caption in captions]
        words += [list(reference) for those in references for reference in those]
        owner = np.arange(len(captions))
        image = np.concatenate([owner, np.repeat(owner, [len(those) for those in references])])
        lengths = np.array([len(caption) for caption in words])
        return compute_bleu(count_bleu(count_ngrams(words), lengths, image, len(captions)))[
            :, _BLEU_4
        ]

    def _search(
        self, decoder: Decoder, features: Features, how: Sampling | Greedy
    ) -> list[Hypothesis]:
        constraints = TokenConstraints.resolve(how, self.vocabulary)
        with torch.no_grad():
            found = search(decoder.step, decoder.start(features), how, constraints)
        return [caption for captions in found for caption in captions]

    def _log_probs(
        self, decoder: Decoder, features: Features, captions: Sequence[Hypothesis]
    ) -> tuple[Float[Tensor, " M"], Int[Tensor, " M"]]:
        """Return the log-probability of every sampled word, and the caption that it stands in."""
        vocabulary, device = self.vocabulary, features.vector.device
        said = [
            [*caption.tokens, *([vocabulary.eos] if caption.finished else [])]
            for caption in captions
        ]
        inputs = [torch.tensor([vocabulary.bos, *words[:-1]]) for words in said]
        owners = [torch.full((len(words),), number) for number, words in enumerate(said)]
        packed = pack_sequence(inputs, enforce_sorted=False)
        packed = packed.to(device)  # type: ignore[arg-type]
        targets = pack_sequence([torch.tensor(words) for words in said], enforce_sorted=False)
        caption = pack_sequence(owners, enforce_sorted=False).data.to(device)
        each = torch.arange(len(features), device=device)
        image = each.repeat_interleave(len(captions) // len(features))
        logits = decoder(features, packed, image).float()
        never = torch.tensor(NEVER_GENERATED, device=device)
        log_probs = torch.log_softmax(logits.index_fill(1, never, -torch.inf), 1)
        return log_probs.gather(1, targets.data.to(device).unsqueeze(1)).squeeze(1), caption
