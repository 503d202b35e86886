"""Image captioning with a CNN encoder and a recurrent decoder.

For example::

    captioner = captioning.Captioner.from_pretrained()
    print(captioner("photo.jpg").text)

The public names; all but the errors are imported when they are first used:

- Captioning: ``Captioner``, ``CaptionResult``, ``Caption``, ``caption_regions``,
  ``caption_dataset``, ``ClusterConfig``, ``read_image``.
- Explanations: ``explain``, ``Explanation``, ``draw_word_maps``, ``draw_next_words``,
  ``draw_beam``, ``draw_concepts``, ``attention_maps``, ``occlusion_maps``.
- Search: ``Greedy``, ``BeamSearch``, ``DiverseBeamSearch``, ``Sampling``.
- Training: ``train``, ``TrainResult``, ``TrainingCallback``, ``RunConfig``, ``TrainingConfig``,
  ``EncoderConfig``, ``DecoderConfig``.
- Evaluation: ``evaluate``, ``EvaluationConfig``, ``EvaluationResult``, ``score``, ``compare``,
  ``Scores``, ``read_captions``.
- Models: ``Checkpoint``, ``load_checkpoint``, ``save_checkpoint``, ``Vocabulary``, ``tokenize``.
- Errors: ``errors``, ``CaptioningError``, ``ConfigError``, ``DataError``, ``ImageError``,
  ``VocabularyError``, ``WeightsError``, ``CheckpointError``, ``SearchError``, ``ScoreError``,
  ``TrainingError``, ``OutputError``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from captioning import errors
from captioning.errors import (
    CaptioningError,
    CheckpointError,
    ConfigError,
    DataError,
    ImageError,
    OutputError,
    ScoreError,
    SearchError,
    TrainingError,
    VocabularyError,
    WeightsError,
)

if TYPE_CHECKING:
    from captioning.bulk.cluster.config import ClusterConfig
    from captioning.bulk.cluster.dataset import caption_dataset
    from captioning.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from captioning.datasets import read_captions
    from captioning.decoding import BeamSearch, DiverseBeamSearch, Greedy, Sampling
    from captioning.evaluation.evaluate import EvaluationConfig, EvaluationResult, evaluate
    from captioning.images.decode import read_image
    from captioning.inference.attention_maps import attention_maps
    from captioning.inference.captioner import Captioner
    from captioning.inference.explanation import Explanation, explain
    from captioning.inference.explanation_figures import (
        draw_beam,
        draw_concepts,
        draw_next_words,
        draw_word_maps,
    )
    from captioning.inference.occlusion_maps import occlusion_maps
    from captioning.inference.region_captions import caption_regions
    from captioning.inference.results import Caption, CaptionResult
    from captioning.metrics import Scores, compare, score
    from captioning.nn.decoder_config import DecoderConfig
    from captioning.nn.encoder_config import EncoderConfig
    from captioning.text.tokenizer import tokenize
    from captioning.text.vocabulary import Vocabulary
    from captioning.training.callback import TrainingCallback, TrainResult
    from captioning.training.config import RunConfig
    from captioning.training.run import train
    from captioning.training.training_config import TrainingConfig

    __version__: str

_LAZY = {
    "BeamSearch": "decoding",
    "Caption": "inference.results",
    "CaptionResult": "inference.results",
    "Captioner": "inference.captioner",
    "Checkpoint": "checkpoint",
    "ClusterConfig": "bulk.cluster.config",
    "DecoderConfig": "nn.decoder_config",
    "DiverseBeamSearch": "decoding",
    "EncoderConfig": "nn.encoder_config",
    "EvaluationConfig": "evaluation.evaluate",
    "EvaluationResult": "evaluation.evaluate",
    "Explanation": "inference.explanation",
    "Greedy": "decoding",
    "RunConfig": "training.config",
    "Sampling": "decoding",
    "Scores": "metrics",
    "TrainResult": "training.callback",
    "TrainingCallback": "training.callback",
    "TrainingConfig": "training.training_config",
    "Vocabulary": "text.vocabulary",
    "attention_maps": "inference.attention_maps",
    "caption_dataset": "bulk.cluster.dataset",
    "caption_regions": "inference.region_captions",
    "compare": "metrics",
    "draw_beam": "inference.explanation_figures",
    "draw_concepts": "inference.explanation_figures",
    "draw_next_words": "inference.explanation_figures",
    "draw_word_maps": "inference.explanation_figures",
    "evaluate": "evaluation.evaluate",
    "explain": "inference.explanation",
    "load_checkpoint": "checkpoint",
    "occlusion_maps": "inference.occlusion_maps",
    "read_captions": "datasets",
    "read_image": "images.decode",
    "save_checkpoint": "checkpoint",
    "score": "metrics",
    "tokenize": "text.tokenizer",
    "train": "training.run",
}

__all__ = [
    "BeamSearch",
    "Caption",
    "CaptionResult",
    "Captioner",
    "CaptioningError",
    "Checkpoint",
    "CheckpointError",
    "ClusterConfig",
    "ConfigError",
    "DataError",
    "DecoderConfig",
    "DiverseBeamSearch",
    "EncoderConfig",
    "EvaluationConfig",
    "EvaluationResult",
    "Explanation",
    "Greedy",
    "ImageError",
    "OutputError",
    "RunConfig",
    "Sampling",
    "ScoreError",
    "Scores",
    "SearchError",
    "TrainResult",
    "TrainingCallback",
    "TrainingConfig",
    "TrainingError",
    "Vocabulary",
    "VocabularyError",
    "WeightsError",
    "attention_maps",
    "caption_dataset",
    "caption_regions",
    "compare",
    "draw_beam",
    "draw_concepts",
    "draw_next_words",
    "draw_word_maps",
    "errors",
    "evaluate",
    "explain",
    "load_checkpoint",
    "occlusion_maps",
    "read_captions",
    "read_image",
    "save_checkpoint",
    "score",
    "tokenize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _read_version()
    if name not in _LAZY:
        raise AttributeError(f"module 'captioning' has no attribute {name!r}")
    return getattr(importlib.import_module(f"captioning.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])


def _read_version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version("captioning")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0.0.0"
