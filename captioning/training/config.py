"""Config of a training run. The text under each field is the help of its command-line flag."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from captioning.datasets.caption_data import name_data
from captioning.datasets.spec import TRAIN_SPLIT
from captioning.errors import ConfigError, DataError
from captioning.features.feature_dtype import FeatureDtype
from captioning.messages import check_license, check_ranges, format_count
from captioning.nn.decoder_config import DecoderConfig
from captioning.nn.encoder_config import EXTERNAL, EncoderConfig
from captioning.text.tokenizers import TokenizerName
from captioning.training.training_config import TrainingConfig


@dataclass(frozen=True)
class RunConfig:
    """A training run: its data, model, and output directory."""

    SECTIONS: ClassVar = {
        "data": "input",
        "output": "output",
        "resume": "output",
        "init_from": "model",
        "data_weights": "input",
        "extend_vocabulary": "model",
        "train_split": "input",
        "encoder": "model",
        "word_vectors": "model",
        "search_images": "search",
        "cache": "speed",
    }

    data: tuple[str, ...]
    """Captioned images, as FORMAT:PATH, or FORMAT:PATH@IMAGES with the folder of the images:
    ``flickr8k:DIR``, ``flickr30k:DIR``, ``coco:DIR``, ``karpathy:FILE``, or a file of your own:
    ``jsonl:``, ``json:``, ``csv:``, ``tsv:``, ``parquet:`` or ``tar:``. With several data sets,
    training and validation use all of them."""
    output: Path
    """Directory of the run: the model, the log, and the state from which it resumes."""
    license: str = ""
    """License of the trained model for its card, as an identifier such as ``apache-2.0`` (default:
    not stated)."""
    keep_checkpoints: int = 0
    """Number of checkpoints to keep: the model and the state after each of the last epochs, in
    ``checkpoints/epoch-N`` (0: none). The best model is kept in any case."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers that also get the log, such as ``wandb`` or ``mlflow``. A tracker must be
    installed, and the library accelerate must support it. Configure it by its own environment
    variables."""
    resume: Path | None = None
    """Directory of another run, or of one of its checkpoints, from which a new run in ``output``
    continues. After an interruption, repeat the command instead. Pass the settings of that
    run, for example with ``--config RUN/settings.json``; only those that docs/training.md lists can
    differ, such as the learning rate and the number of epochs. Unlike with ``init_from``, the state
    of the optimizer and the order of the data continue too."""
    init_from: Path | None = None
    """Directory of a model to continue training from. Its weights, vocabulary and architecture are
    used. Encoder and decoder options are ignored, except ``concepts``. ``min_count`` then only has
    an effect with ``extend_vocabulary``."""
    data_weights: tuple[float, ...] = ()
    """Passes over each data set per epoch (above 0); 0.5 uses a new random half of the captions in
    each epoch (default: 1 each)."""
    text_data: Path | None = None
    """File of captions without images: one per line, or KEY<TAB>caption. Captions with
    the same key are treated as captions of one image. Their image vector v is zero: the
    decoder learns words and grammar from them."""
    text_weight: float = 1.0
    """Passes over the captions of ``text_data`` per epoch (above 0); 0.5 uses a new random half of
    them in each epoch."""
    features: Path | None = None
    """External features, such as those of a region detector: a folder with one ``.npz`` or
    ``.npy`` file per image, or an HDF5 file with one dataset per image. They replace the encoder,
    and the images are not read (default: encode the images)."""
    extend_vocabulary: bool = False
    """Extend the vocabulary of ``init_from`` with the words that occur at least ``min_count`` times
    in the training captions."""
    train_split: str = TRAIN_SPLIT
    """Split to train on. ``restval`` is a second training part, which only Karpathy's COCO split
    has; published models are trained on both parts. The value ``train`` leaves ``restval`` out.
    Data sets without ``restval`` use ``train`` alone."""
    validation_split: str = "val"
    """Split that selects the best epoch."""
    val_fraction: float = 0.0
    """Share of the training images that is held out for validation in data sets without a split
    ``val`` (0 to below 1; 0: none). With 0, training refuses data sets without a validation
    split."""
    split_seed: int = 0
    """Seed for the choice of the held-out images. The choice also depends on the file names, but
    not on the order of the data."""
    validation_limit: int = 5000
    """Number of images of the validation split to use, evenly spaced (0: all). They are encoded
    once, and captioned after each epoch."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The image encoder (a CNN)."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The recurrent decoder."""
    word_vectors: Path | None = None
    """File of pretrained word vectors in GloVe's text format (also ``.gz`` and ``.zip``), with
    ``embedding_size`` numbers each. They replace the random initial vectors of the words that the
    file has, and are trained like the others."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Objective, optimizer, regularization, and augmentation."""
    min_count: int = 5
    """Minimum number of occurrences of a word in the training captions (1 or more). Rarer words
    become <unk>."""
    max_caption_words: int = 0
    """Maximum number of words that are learned from a training caption (0: no limit). A longer
    caption is cut, and no end token is learned after the cut."""
    tokenizer: TokenizerName = "ptb"
    """Splits captions into lower-case words, for training and scores. ptb: as the official scorer
    does, for English. whitespace: at spaces, for captions that are split already. characters: for
    languages without spaces between words, such as Chinese. With ``init_from``, the tokenizer of
    the initial model is used."""
    search_images: int = 1000
    """Number of validation images for choosing the search settings after training (0: no choice;
    the model gets beam search of width 3)."""
    rerank_ngrams: int = 6000
    """Number of n-grams for n-gram reranking (0: off). Ignored with ``search_images`` 0."""
    cache: Path | None = None
    """Directory of cached features, which runs can share (default: features next to the
    output)."""
    feature_dtype: FeatureDtype = "float16"
    """Type of cached feature grids, which attention and fine-tuning read. ``int8`` needs half the
    space and does not change the CIDEr measurably (docs/training.md)."""
    workers: int = 2
    """Number of processes that read image files, or of threads with ``features`` (0: read in the
    main process)."""
    device: str = "auto"
    """Device: auto (CUDA, then MPS, then the CPU), cpu, cuda, cuda:1, or mps."""

    def __post_init__(self) -> None:
        check_ranges(self, "[1, inf)", "min_count")
        check_ranges(self, "[0, inf)", "search_images", "rerank_ngrams", "workers")
        check_ranges(self, "[0, inf)", "keep_checkpoints")
        check_ranges(self, "[0, inf)", "validation_limit", "max_caption_words")
        check_ranges(self, "[0, 1)", "val_fraction")
        for name in (
            "output",
            "resume",
            "init_from",
            "text_data",
            "features",
            "cache",
            "word_vectors",
        ):
            if isinstance(path := getattr(self, name), str):  # as notebooks pass them
                object.__setattr__(self, name, Path(path))
        if self.word_vectors is not None and self.init_from is not None:
            raise ConfigError(
                "word_vectors initialize a new decoder, but the model of init_from has trained "
                "vectors. Remove word_vectors or init_from. In a config with several stages, set "
                "them for the first one: stages.NAME.word_vectors=FILE."
            )
        if self.feature_dtype not in ("float16", "int8"):
            raise ConfigError(
                f"feature_dtype is {self.feature_dtype!r}. It must be 'float16' or 'int8'."
            )
        check_license(self)
        self._check_data()
        try:
            object.__setattr__(self, "data", tuple(map(name_data, self.data)))
        except DataError as error:
            raise ConfigError(f"data is a tuple of data sets, such as (rows,): {error}") from error
        self._check_features()
        if self.training.objective == "self_critical":
            self._check_self_critical()

    @property
    def cache_directory(self) -> Path:
        """Directory of the cached features."""
        return self.cache or self.output.parent / "features"

    def _check_data(self) -> None:
        if isinstance(self.data, str):
            raise ConfigError(f"data is the string {self.data!r}. Pass a tuple: ({self.data!r},).")
        if not isinstance(self.data, tuple | list) or not self.data:
            raise ConfigError("data is not a tuple of at least one data set. Pass (data,).")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ConfigError(
                f"data has {format_count(len(self.data), 'data set')} and data_weights has "
                f"{format_count(len(self.data_weights), 'number')}. Pass one weight per data set, "
                "or omit data_weights."
            )
        for weight in (*self.data_weights, self.text_weight):
            if not (math.isfinite(weight) and weight > 0):
                raise ConfigError(
                    f"data_weights or text_weight contains {weight}. Each must be a finite number "
                    "above 0. To exclude a data set, remove it from data."
                )

    def _check_features(self) -> None:
        if self.features is None:
            if self.encoder.name == EXTERNAL:
                raise ConfigError(
                    "the encoder 'features' stands for external features. Pass their folder "
                    "or HDF5 file as features."
                )
            return
        training = self.training
        unused = {
            "another encoder": self.encoder not in (EncoderConfig(), EncoderConfig(EXTERNAL)),
            "fine_tune_stages": training.fine_tune_stages,
            "online_augmentation": training.online_augmentation,
            "cached_crops": training.cached_crops,
        }
        if names := [name for name, value in unused.items() if value]:
            raise ConfigError(
                f"features replaces the encoder, but the run also has {' and '.join(names)}. "
                "Remove one of them."
            )

    def _check_self_critical(self) -> None:
        if self.init_from is None:
            raise ConfigError(
                "the objective self_critical needs a trained model. Pass one as init_from, such "
                "as runs/first/model."
            )
        if self.text_data is not None:
            raise ConfigError(
                "the objective self_critical rewards captions of images, and text_data has no "
                "images. Remove text_data."
            )
