"""Config of the training loop. The text under each field is the help of its command-line flag."""

from dataclasses import dataclass, field
from typing import Literal

from captioning.errors import ConfigError
from captioning.messages import check_ranges
from captioning.nn.encoder_config import Precision


@dataclass(frozen=True)
class SelfCriticalConfig:
    """Rewards of the objective ``self_critical``."""

    samples: int = 5
    """Number of captions sampled per image (2 or more; 1 or more with the greedy baseline)."""
    baseline: Literal["leave_one_out", "greedy"] = "leave_one_out"
    """Baseline subtracted from the reward of a sample: the mean reward of the other samples of the
    image, or the reward of the greedy caption (Rennie et al. 2017)."""
    bleu_weight: float = 0.0
    """The reward is CIDEr-D (0 to 10) plus this weight (0 or more) times sentence BLEU-4 (0 to
    1)."""
    cross_entropy_weight: float = 0.0
    """Weight of the cross-entropy of the reference captions, added to the policy gradient (0 or
    more)."""
    feature_dropout: float = 0.0
    """Share of the feature channels that are set to zero (0 to below 1). The same mask is used to
    sample captions and to compute their probabilities. No effect on the cross-entropy."""
    max_length: int = 20
    """Maximum number of words in a sampled caption (1 or more)."""

    def __post_init__(self) -> None:
        check_ranges(self, "[0, 1)", "feature_dropout")
        check_ranges(self, "[0, inf)", "bleu_weight", "cross_entropy_weight")
        check_ranges(self, "[1, inf)", "max_length")
        if self.samples < 1 or (self.samples == 1 and self.baseline == "leave_one_out"):
            raise ConfigError(
                f"samples is {self.samples}. It must be at least 2, or 1 with baseline greedy."
            )
        if self.baseline not in ("leave_one_out", "greedy"):
            raise ConfigError(
                f"baseline is {self.baseline!r}. It must be 'leave_one_out' or 'greedy'."
            )


@dataclass(frozen=True)
class TrainingConfig:
    """Objective, optimizer, regularization, and augmentation of a training run."""

    objective: Literal["cross_entropy", "self_critical"] = "cross_entropy"
    """``cross_entropy``: teacher forcing. ``self_critical``: raise the probability of sampled
    captions with a high reward; needs a trained model in ``init_from``."""
    self_critical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)
    """Rewards of the objective ``self_critical``."""
    fine_tune_stages: int = 0
    """Number of last encoder stages to train (0: freeze the encoder). The output of the frozen
    stages is cached, except with ``online_augmentation``."""
    encoder_lr_scale: float = 0.1
    """Learning rate of the fine-tuned encoder stages, as a multiple of that of the decoder (above
    0)."""
    encoder_start_epoch: int = 1
    """First epoch in which the fine-tuned encoder stages are trained (1 or more). Before it the
    whole encoder is frozen, and only the decoder learns."""

    epochs: int = 20
    """Maximum number of epochs (1 or more). The cosine schedule ends with the last one. A finished
    run continues if you raise this number; its learning rate then follows the longer schedule."""
    max_steps: int = 0
    """Maximum number of steps of the run (0: no limit). The cosine schedule ends with the last one.
    At the limit, the current epoch ends early, and is validated and saved like the others. If you
    raise the limit, the run continues with the next epoch; the rest of the current one is
    skipped."""
    batch_size: int = 128
    """Captions per batch (1 or more)."""
    accumulation_steps: int = 1
    """Batches per optimizer step (1 or more). Their gradients are added, so that a step equals one
    with a large batch but needs only the memory of a small one. Other options count optimizer
    steps, not batches."""
    captions_per_image: int = 1
    """Captions of an image that are in the same batch (1 or more). The image is encoded once for
    all of them. With the value 1, an image with five captions is in five batches of an epoch; with
    the value 5, it is in one. ``self_critical`` samples captions of an image each time it is in a
    batch: for this image five times per epoch with the value 1, and once with 5."""
    learning_rate: float = 1e-3
    """Maximum learning rate, reached after the warm-up (above 0)."""
    warmup_steps: int = 200
    """Steps of linear warm-up (0 or more), limited to a tenth of all steps."""
    schedule: Literal["cosine", "constant", "step", "plateau"] = "cosine"
    """Learning rate after the warm-up. ``cosine``: falls to almost 0 in the course of the run
    (Loshchilov & Hutter 2017). ``constant``: unchanged. ``step``: multiplied by ``decay_factor``
    every ``decay_epochs`` epochs. ``plateau``: multiplied by ``decay_factor`` after
    ``decay_epochs`` epochs without a better validation score."""
    decay_factor: float = 0.5
    """Factor of the schedules ``step`` and ``plateau`` (above 0 and below 1)."""
    decay_epochs: float = 3.0
    """With the schedule ``step``: number of epochs between two decays (above 0), which may be a
    fraction such as 0.5. With ``plateau``: number of epochs without a better validation score
    before a decay."""
    weight_decay: float = 0.01
    """Weight decay of AdamW (0 or more; Loshchilov & Hutter 2019)."""
    clip_norm: float = 5.0
    """Maximum norm of the gradient (0: no clipping; Pascanu et al. 2013, section 3.2)."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over all words (Szegedy et al. 2016,
    section 7; 0 to below 1)."""
    word_dropout: float = 0.0
    """Probability of replacing an input word with ``<unk>`` (0 to below 1; Bowman et al. 2016,
    section 3.1)."""
    scheduled_sampling: float = 0.0
    """Final probability of replacing an input word with a sample of the decoder's prediction (0 to
    below 1; Bengio et al. 2015). The probability grows linearly from 0."""
    doubly_stochastic_weight: float = 0.0
    """Weight of a penalty that makes the attention over a whole caption cover all parts of the
    image equally (0 or more; Xu et al. 2015, section 4.2.1)."""
    reconstruction_weight: float = 1.0
    """Weight of the reconstruction error of v (0 or more). No effect unless ``core`` is
    ``memory``."""
    hflip: bool = True
    """Flip each image horizontally with probability 0.5, and swap "left" and "right" in its
    captions."""
    cached_crops: int = 0
    """Number of random crops with color jitter to cache per image (0 or more), in addition to the
    whole image. Every second one is flipped, so ``hflip`` must be on."""
    online_augmentation: bool = False
    """Draw random crops and color jitter again for every step. Pixels are cached instead of
    features, and the whole encoder runs in each step: use a GPU."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights (0 to below 1; 0: off). The averaged
    weights are validated and saved."""
    patience: int = 4
    """Stop after this many epochs without a better validation score (0: never)."""
    select_by: Literal["CIDEr", "BLEU-4"] = "CIDEr"
    """Score of greedy validation captions that selects the best epoch."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of matrix products. ``bfloat16`` is almost twice as fast on hardware that supports
    it. On other hardware it is much slower, and the log has a warning. ``float16``, with a scaled
    loss, is for GPUs without bfloat16; features are then encoded in float32."""
    seed: int = 0
    """Seed of the initial weights, the order of the captions, and dropout (0 to 2**32 - 1)."""
    save_every: int = 200
    """Number of steps between saved states (1 or more). An interrupted run resumes from the last
    one."""
    log_every: int = 50
    """Number of steps between rows of step metrics in ``log.csv`` and TensorBoard (1 or more)."""

    @property
    def encoder_precision(self) -> Precision:
        """Precision in which a frozen encoder computes the features."""
        return "bfloat16" if self.precision == "bfloat16" else "float32"

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "[1, inf)",
            *("epochs", "batch_size", "captions_per_image", "save_every", "log_every"),
            *("accumulation_steps", "encoder_start_epoch"),
        )
        check_ranges(self, "(0, inf)", "learning_rate", "encoder_lr_scale", "decay_epochs")
        check_ranges(self, "(0, 1)", "decay_factor")
        check_ranges(
            self,
            "[0, inf)",
            *("warmup_steps", "weight_decay", "patience", "fine_tune_stages", "cached_crops"),
            *("doubly_stochastic_weight", "reconstruction_weight", "clip_norm", "max_steps"),
        )
        shares = ("label_smoothing", "ema_decay", "word_dropout", "scheduled_sampling")
        check_ranges(self, "[0, 1)", *shares)
        check_ranges(self, f"[0, {2**32})", "seed")
        self._check_conflicts()

    def _check_conflicts(self) -> None:
        """Check combinations of fields.

        Raises:
            ConfigError: A field would have no effect, or contradicts another.
        """
        if self.encoder_start_epoch > 1 and not self.fine_tune_stages:
            raise ConfigError(
                f"encoder_start_epoch is {self.encoder_start_epoch}, and fine_tune_stages is 0: no "
                "encoder stage is trained. Set fine_tune_stages too."
            )
        if self.encoder_start_epoch > self.epochs:
            raise ConfigError(
                f"encoder_start_epoch is {self.encoder_start_epoch}, and the run has {self.epochs} "
                "epochs. Use a smaller encoder_start_epoch or more epochs."
            )
        if self.schedule == "plateau" and 0 < self.patience <= self.decay_epochs:
            raise ConfigError(
                f"patience is {self.patience}, but the schedule plateau lowers the learning rate "
                f"only after {self.decay_epochs:g} epochs, so the run would stop first. Use a "
                "larger patience, 0 (never stop early), or fewer decay_epochs."
            )
        if self.cached_crops and not self.hflip:
            raise ConfigError(
                "cached_crops flips every second crop, and hflip is off. Turn hflip on, or set "
                "cached_crops to 0."
            )
        if self.cached_crops and self.online_augmentation:
            raise ConfigError(
                "online_augmentation draws its own crops. Set cached_crops to 0 with it."
            )
