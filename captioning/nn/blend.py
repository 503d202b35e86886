"""A model whose weights lie between those of two."""

import copy

import torch

from captioning.errors import SettingsError
from captioning.nn.model import CaptionModel


@torch.no_grad()
def blended(first: CaptionModel, second: CaptionModel, share: float) -> CaptionModel:
    """Return a model with the weights ``(1 - share) first + share second``.

    Between a model and what further training made of it lies a straight way without high loss, and
    its middle is often better than both ends: the further training has moved towards the training
    photos, and half of the way back keeps most of what it gained (Wortsman et al. 2022, Robust
    fine-tuning of zero-shot models, section 3).

    Args:
        first: A model.
        second: One of the same shape, best trained from the first.
        share: Of the second, from 0 to 1.

    Raises:
        SettingsError: The models have other shapes, or the share is outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise SettingsError(f"share is {share}; it is from 0, the first model, to 1, the second.")
    if first.decoder.config != second.decoder.config or (
        first.encoder.config != second.encoder.config
    ):
        raise SettingsError(
            f"These models have other shapes: {first.encoder.config}, {first.decoder.config} and "
            f"{second.encoder.config}, {second.decoder.config}. Blend a model with one that was "
            "trained from it."
        )
    ends = first.state_dict(), second.state_dict()
    model = copy.deepcopy(first)
    # Loaded, not changed in place: tied weights stand twice among the names.
    model.load_state_dict(
        {
            name: torch.lerp(weight, ends[1][name].to(weight), share)
            if weight.is_floating_point()
            else weight
            for name, weight in ends[0].items()
        }
    )
    return model
