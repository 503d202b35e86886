"""Stand-in for the encoder of a model that reads external features."""

from typing import NoReturn

from jaxtyping import UInt8
from torch import Tensor, nn

from captioning.errors import ConfigError
from captioning.images.preprocessing import Preprocessing
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import EXTERNAL, EncoderConfig
from captioning.nn.features import Features


class ExternalEncoder(Encoder):
    """No network: another program extracted the features, for example a region detector.

    Everything that needs images raises a ConfigError.

    Args:
        feature_size: D, size of v and of each region.
    """

    def __init__(self, feature_size: int) -> None:
        nn.Module.__init__(self)  # that of Encoder would build a network
        self.config = EncoderConfig(EXTERNAL, weights=None)
        self.ignored_weights = ()
        self._classifier = (None,)
        self.positions, self.feature_size = 0, feature_size

    def train(self, mode: bool = True) -> "ExternalEncoder":
        """Set the mode, which has no effect."""
        nn.Module.train(self, mode)
        return self

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]
        """Not available: the model reads no images."""
        self._refuse()

    def forward(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Features:
        """Refuse images."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            "this model reads features, not images: it was trained on external features "
            f"({self.feature_size:,} values per region) and has no CNN. Caption a data set with "
            "captioning evaluate --features, or arrays in Python with caption_regions."
        )
