"""The settings of a training run."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from captioning.errors import ConfigError
from captioning.features.cache_keys import Precision
from captioning.messages import check_minimum, format_count
from captioning.nn.decoder_config import DecoderOptions
from captioning.nn.encoder import EncoderConfig


@dataclass(frozen=True)
class SelfCriticalConfig:
    """How sampled captions are rewarded, where the objective is ``self_critical``."""

    samples: int = 5
    """Captions sampled for each image."""
    baseline: Literal["others", "greedy"] = "others"
    """What a sample has to beat: the mean reward of the image's other samples, or the reward of
    its greedy caption (Rennie et al. 2017)."""
    bleu: float = 0.0
    """Weight of the sentence's BLEU-4 (0 to 1) beside its CIDEr-D (0 to 10) in the reward."""
    cross_entropy: float = 0.0
    """Weight of the cross-entropy of the people's captions beside the policy gradient."""
    feature_dropout: float = 0.0
    """Share of the numbers of v, and the same ones of every position of the grid, that are hidden
    from an image's samples and from their log-probabilities alike, drawn anew for each image of
    a batch. ``cross_entropy`` has its own dropout."""
    max_length: int = 20
    """Words of a sample at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.feature_dropout < 1:
            raise ConfigError(
                f"feature_dropout is {self.feature_dropout}; it is at least 0 and below 1."
            )
        if self.samples < 1 or (self.samples == 1 and self.baseline == "others"):
            raise ConfigError(
                f"samples is {self.samples}; it is at least 2, or 1 with the baseline greedy."
            )
        if self.baseline not in ("others", "greedy"):
            raise ConfigError(f"baseline is {self.baseline!r}; it is 'others' or 'greedy'.")
        for name in ("bleu", "cross_entropy"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it is zero or more.")
        check_minimum(self, max_length=1)


@dataclass(frozen=True)
class TrainingConfig:
    """How a decoder is trained."""

    objective: Literal["cross_entropy", "self_critical"] = "cross_entropy"
    """``cross_entropy``: teacher forcing. ``self_critical``: sampled captions that score above
    others become likelier; start from a model that teacher forcing has made."""
    self_critical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)
    """For the objective ``self_critical``."""
    fine_tune: int = 0
    """Last stages of the CNN (of timm's) that are trained too; 0 leaves it as it is. What the
    stages before them give is cached, but with ``live``."""
    encoder_rate: float = 0.1
    """Learning rate of those stages as a share of the decoder's."""

    epochs: int = 20
    """Epochs at most; the learning rate falls to nearly nothing at the end of the last."""
    batch_size: int = 128
    """Captions in a batch."""
    captions_per_image: int = 1
    """Captions of one image that go together. 5 lets attention project each grid once for all,
    and shows self-critical training each image once in an epoch."""
    learning_rate: float = 1e-3
    """The highest learning rate, after the warm-up."""
    warmup_steps: int = 200
    """Batches over which the learning rate rises from zero; a tenth of all at most."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate falls after the warm-up (Loshchilov & Hutter 2017)."""
    weight_decay: float = 0.01
    """AdamW's decay (Loshchilov & Hutter 2019)."""
    clip_norm: float = 5.0
    """The gradient's norm is cut to this (Pascanu et al. 2013, section 3.2)."""
    label_smoothing: float = 0.1
    """Share of the target spread over all words (Szegedy et al. 2016, section 7)."""
    word_dropout: float = 0.0
    """Share of the words read that are replaced by ``<unk>`` (Bowman et al. 2016, section 3.1)."""
    scheduled_sampling: float = 0.0
    """Share of the words read that are the decoder's own at the end of the run; it rises from none
    in a straight line (Bengio et al. 2015)."""
    doubly_stochastic: float = 0.0
    """Weight of Xu et al.'s term that has every position looked at in the course of a caption."""
    reconstruction: float = 1.0
    """Weight of the error of the reconstructed v, of a decoder that reconstructs it."""
    mirror: bool = True
    """Whether each image is shown mirrored half of the time; "left" and "right" then change
    places."""
    crops: int = 0
    """Show as many random parts of each image, cut and lit at random once and cached, as often as
    the whole; every second one is mirrored."""
    live: bool = False
    """Look at the images anew each time: two of three times at a part of each, cut and lit at
    random as never before. What is cached are their pixels, and the whole CNN runs in every step:
    for a GPU."""
    averaging: float = 0.0
    """Decay of the running average of the weights that is validated and kept; 0 for none."""
    patience: int = 4
    """Epochs without a better validation score after which training stops; 0 for never."""
    select_by: Literal["CIDEr", "BLEU-4"] = "CIDEr"
    """The score of free-running captions of the validation split that chooses the epoch."""
    precision: Precision = "float32"
    """``bfloat16`` nearly doubles the speed of encoder and decoder on processors that have it; on
    others it is many times slower, and the run says so."""
    seed: int = 0
    """Seed of the initial weights, the order of the captions and dropout."""
    save_every: int = 200
    """Batches after which the run is saved, so that it can go on when it is killed."""

    def __post_init__(self) -> None:
        positive = (
            *("epochs", "batch_size", "captions_per_image", "learning_rate", "save_every"),
            "encoder_rate",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it is above zero.")
        for name in ("warmup_steps", "weight_decay", "patience", "fine_tune", "crops"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it is zero or more.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; it is at least 0 and below 2**32.")
        if self.crops and not self.mirror:
            raise ConfigError("crops mirrors every second part: give it with mirror, or neither.")
        if self.crops and self.live:
            raise ConfigError("live draws parts of the images each time. Leave crops out.")
        for name in ("doubly_stochastic", "reconstruction"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it is zero or more.")
        for name in ("label_smoothing", "averaging", "word_dropout", "scheduled_sampling"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it is at least 0 and below 1.")
        if not self.clip_norm > 0:
            raise ConfigError(
                f"clip_norm is {self.clip_norm}; it is above zero. Use inf for no clipping."
            )

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of batch ``step`` (from 0) of ``steps``."""
        warmup = min(self.warmup_steps, steps // 10)
        warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if self.schedule == "constant":
            return self.learning_rate * warm
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return self.learning_rate * warm * (0.02 + 0.98 * fall)


@dataclass(frozen=True)
class RunConfig:
    """What is trained, on what, and where it is kept."""

    data: tuple[str, ...]
    """The captioned images: ``flickr8k:DIR``, ``coco:DIR``, ``karpathy:FILE``, ``jsonl:FILE`` or
    ``csv:FILE``; several are trained and validated on together."""
    output: Path
    """The run's directory: the model, the log, and what is needed to go on after an interruption.
    """
    start: Path | None = None
    """A model directory to start from: its weights, words and shape take the place of ``encoder``,
    ``decoder`` and ``min_count``."""
    times: tuple[float, ...] = ()
    """How often an epoch shows the images of each ``data``, for a small one beside a large one;
    half means half of their captions, drawn anew in each epoch. Once, where nothing is given."""
    text: Path | None = None
    """Captions without images, one in a line or KEY<TAB>caption: v is zero for them, and the
    decoder learns words and language."""
    text_times: float = 1.0
    """How often an epoch shows the captions of ``text``."""
    new_words: bool = False
    """With ``start``: add the words that the captions hold ``min_count`` times or more and that
    the model does not know."""
    train_split: str = "train"
    """The split to train on."""
    validation_split: str = "val"
    """The split whose captions choose the epoch."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The CNN."""
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    """The recurrent net."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How it is trained."""
    min_count: int = 5
    """A word is known when the training captions hold it this often."""
    cache: Path | None = None
    """Where features are cached, for all runs to share; ``features`` beside the run by default."""
    search_images: int = 1000
    """After the last epoch the model gets, once, the search out of ten whose captions of so many
    images of the validation split score best; 0 leaves it a beam of 3."""
    phrases: int = 6000
    """Before that the model learns how much each of so many phrases makes up what people say of a
    image, by which two of the ten searches rank what a beam finds; 0 for none. Where no search is
    chosen none are learned."""
    workers: int = 2
    """Processes that read images."""
    device: str = "cpu"
    """Where the tensors live: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""

    def __post_init__(self) -> None:
        check_minimum(self, min_count=1, search_images=0, phrases=0, workers=0)
        for name in ("output", "start", "text", "cache"):  # a notebook's are strings
            if isinstance(path := getattr(self, name), str):
                object.__setattr__(self, name, Path(path))
        if isinstance(self.data, str):
            raise ConfigError(
                f"data is {self.data!r}; it is a list of data sets, so give ({self.data!r},)."
            )
        if not self.data or (self.times and len(self.times) != len(self.data)):
            raise ConfigError(
                f"data names {format_count(len(self.data), 'data set')} and times has "
                f"{format_count(len(self.times), 'number')}. Name at least one data "
                "set, and give as "
                "many numbers or none."
            )
        for often in (*self.times, self.text_times):
            if not (math.isfinite(often) and often > 0):
                raise ConfigError(
                    f"{often} is among times and text_times; each is a number above zero. To leave "
                    "a data set out, do not name it."
                )
        if self.start is None and self.training.objective == "self_critical":
            raise ConfigError(
                "The objective self_critical makes good captions likelier, and a new model has "
                "none. Give a trained model as start, such as runs/first/model."
            )
        if self.text is not None and self.training.objective == "self_critical":
            raise ConfigError(
                "text has no images to reward captions for. Leave it out of a run whose "
                "objective is self_critical."
            )
