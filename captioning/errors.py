"""The exceptions of this package.

    CaptioningError
    ├── ConfigError      invalid setting or combination of settings (ValueError)
    ├── DataError        unusable captions, splits or image lists (ValueError)
    ├── ImageError       unreadable image (ValueError)
    ├── VocabularyError  words or ids that do not match the vocabulary (ValueError)
    ├── WeightsError     pretrained weights that are not available (RuntimeError)
    ├── CheckpointError  model directory that cannot be loaded or saved (ValueError)
    ├── SearchError      search that is invalid or that no caption satisfies (ValueError)
    ├── ScoreError       candidates and references that cannot be scored (ValueError)
    ├── TrainingError    training run that cannot start, continue or resume (RuntimeError)
    │   └── TrainingStoppedError  run that was asked to stop, and resumes
    └── OutputError      results that cannot be written (OSError)

Each message says what is wrong, what was found, and what to do. Each class also inherits the
built-in exception that a caller would expect.
"""


class CaptioningError(Exception):
    """Base class: ``except CaptioningError`` catches every error that this package raises."""


class ConfigError(CaptioningError, ValueError):
    """A setting is invalid, alone or in combination with another."""


class DataError(CaptioningError, ValueError):
    """Captions, splits or image lists cannot be used."""


class ImageError(CaptioningError, ValueError):
    """An image cannot be read."""


class VocabularyError(CaptioningError, ValueError):
    """Words or ids do not match the vocabulary."""


class WeightsError(CaptioningError, RuntimeError):
    """Pretrained weights are not available."""


class CheckpointError(CaptioningError, ValueError):
    """A model directory cannot be loaded or saved."""


class SearchError(CaptioningError, ValueError):
    """No caption satisfies the constraints of a search."""


class ScoreError(CaptioningError, ValueError):
    """Candidates and references cannot be scored."""


class TrainingError(CaptioningError, RuntimeError):
    """A training run cannot start or resume."""


class TrainingStoppedError(TrainingError):
    """A training run was asked to stop. Its state is saved, and the same call resumes it."""


class OutputError(CaptioningError, OSError):
    """Results cannot be written."""
