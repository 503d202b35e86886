"""A model whose weights lie between those of others."""

import copy
import math
from collections.abc import Sequence

import torch

from captioning.errors import ConfigError
from captioning.nn.model import CaptionModel


@torch.no_grad()
def blended(models: Sequence[CaptionModel], shares: Sequence[float]) -> CaptionModel:
    """Return a model with the weighted mean of the models' weights.

    Between a model and what further training made of it lies a straight way without high loss, and
    its middle is often better than both ends: the further training has moved towards the training
    photos, and half of the way back keeps most of what it gained (Wortsman et al. 2022, Robust
    fine-tuning of zero-shot models, section 3). Several trainings that parted at one model have a
    mean that is often better than each of them (Wortsman et al. 2022, Model soups, section 3; for
    rewards Ramé et al. 2024, WARP, section 3).

    Args:
        models: Models of one shape, best trained from the same one.
        shares: Of each, together 1.

    Raises:
        ConfigError: The models have other shapes, or the shares do not add up.
    """
    fits = len(shares) == len(models) and all(share >= 0 for share in shares)
    if not fits or not math.isclose(sum(shares), 1):
        raise ConfigError(
            f"The shares of {len(models)} models are {', '.join(f'{each:g}' for each in shares)}; "
            "give each model its share, none below 0, and 1 together."
        )
    first = models[0]
    for other in models[1:]:
        if _shapes(first) != _shapes(other):
            raise ConfigError(
                f"These models have other shapes: {first.encoder.config}, {first.decoder.config} "
                f"and {other.encoder.config}, {other.decoder.config}. Blend a model with one that "
                "was trained from it."
            )
    parts = [(share, model.state_dict()) for share, model in zip(shares, models, strict=True)]
    model = copy.deepcopy(first)
    # Loaded, not changed in place: tied weights stand twice among the names.
    model.load_state_dict(
        {
            name: torch.stack([share * state[name].to(weight) for share, state in parts]).sum(0)
            if weight.is_floating_point()
            else weight
            for name, weight in first.state_dict().items()
        }
    )
    return model


def _shapes(model: CaptionModel) -> tuple[object, ...]:
    return model.encoder.config, model.decoder.config, model.decoder.sizes
