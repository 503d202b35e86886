"""How a model was trained and what it scored: content of ``config.json`` and the model card."""

from dataclasses import dataclass, field

from captioning.messages import check_license
from captioning.short_repr import ShortRepr


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainingInfo(ShortRepr):
    """The training run that produced a model."""

    data: str
    """Training data, such as ``flickr8k:flickr8k, split train: 6000 images, 30000 captions``."""
    epochs: int
    """Epochs of the last run, up to the stored weights."""
    seed: int
    """Random seed of the last run."""
    torch: str
    """Version of torch."""
    runs: tuple[str, ...] = ()
    """One line for each run since the first, because a run can start from an earlier model."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelInfo(ShortRepr):
    """Facts about a model that its weights and configs do not contain."""

    name: str = "An image captioner"
    """Title of the model card."""
    training: TrainingInfo | None = None
    """How the model was trained; None if unknown."""
    scores: dict[str, float] = field(default_factory=dict)
    """Metric values by metric and data set, such as ``CIDEr (val, 100 images)``."""
    signature: str = ""
    """Signature of the metrics that gave the scores; empty if unknown."""
    search_chosen: bool = False
    """Whether the model's search was chosen by its scores on validation images."""
    license: str = ""
    """Identifier of the model's license, such as ``apache-2.0``; empty if it is not stated."""
    limits: tuple[str, ...] = (
        "The model describes what its training images show. It guesses everything else.",
    )
    """Paragraphs on what the model cannot do."""

    def __post_init__(self) -> None:
        check_license(self)
