"""Types of stored features. Without torch, which would delay ``--help`` by seconds."""

from typing import Literal

FeatureDtype = Literal["float16", "int8"]
"""Type of stored grids."""
