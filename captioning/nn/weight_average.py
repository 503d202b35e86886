"""Weighted averages of the weights of several models."""

import copy
import math
from collections.abc import Sequence

import torch

from captioning.errors import ConfigError
from captioning.nn.extend_vocabulary import WORD_WEIGHTS
from captioning.nn.model import CaptionModel

_CONCEPT_TERMS = ("decoder.concepts.W_sh.weight", "decoder.concepts.W_sr.weight")


@torch.no_grad()
def average_weights(models: Sequence[CaptionModel], shares: Sequence[float]) -> CaptionModel:
    """Return a model whose weights are the weighted mean of those of ``models``.

    The loss is low between a model and its fine-tuned version, and an average of both often
    generalizes better than either (Wortsman et al. 2022, Robust fine-tuning of zero-shot models,
    section 3). The same holds for several models fine-tuned from one model (Wortsman et al. 2022,
    Model soups, section 3; for rewards Ramé et al. 2024, WARP, section 3).

    Args:
        models: Models with equal configs, trained from the same model.
        shares: Weight of each model. They are not negative and sum to 1.

    Raises:
        ConfigError: The models have different shapes, or the shares are invalid.
    """
    valid = len(shares) == len(models) and all(share >= 0 for share in shares)
    if not valid or not math.isclose(sum(shares), 1):
        raise ConfigError(
            f"the shares of {len(models)} models are {', '.join(f'{share:g}' for share in shares)}."
            " Use one share per model, none below 0, with the sum 1."
        )
    first = models[0]
    for other in models[1:]:
        if _shapes(first) != _shapes(other):
            raise ConfigError(
                f"the models have different shapes: {first.encoder.config}, {first.decoder.config} "
                f"and {other.encoder.config}, {other.decoder.config}. Average models that were "
                "trained from the same model."
            )
    parts = [(share, model.state_dict()) for share, model in zip(shares, models, strict=True)]
    model = copy.deepcopy(first)
    # Loading handles tied weights, which appear under two names.
    model.load_state_dict(
        {
            name: torch.stack([share * state[name].to(weight) for share, state in parts]).sum(0)
            if weight.is_floating_point()
            else weight
            for name, weight in first.state_dict().items()
        }
    )
    return model


@torch.no_grad()
def extend_like(model: CaptionModel, larger: CaptionModel) -> CaptionModel:
    """Return a copy of a model with the further words and the concepts of a larger one.

    So a model can be averaged with a version of it that was fine-tuned with more words, or with
    concepts. The copy predicts the old words as ``model`` does: concepts have no effect on it.

    Args:
        model: Source of the weights; it is not changed.
        larger: Its first words are those of ``model``.

    Raises:
        ConfigError: The models differ in more than words and concepts.
    """
    own = model.state_dict()
    extended = copy.deepcopy(larger)
    weights = extended.state_dict()
    for name, weight in weights.items():
        if name not in own:
            weights[name] = torch.zeros_like(weight) if name in _CONCEPT_TERMS else weight
        elif (
            name.removeprefix("decoder.") in WORD_WEIGHTS
            and own[name].shape[1:] == weight.shape[1:]
        ):
            weights[name] = torch.cat([own[name], weight[len(own[name]) :]])
        else:
            weights[name] = own[name]
    found = {name: weight.shape for name, weight in extended.state_dict().items()}
    if not own.keys() <= found.keys() or found != {n: w.shape for n, w in weights.items()}:
        raise ConfigError(
            f"a model with the decoder {model.decoder.config} cannot be extended like one with "
            f"{larger.decoder.config}. Use a model that was trained from the first one."
        )
    extended.load_state_dict(weights)
    return extended


def _shapes(model: CaptionModel) -> tuple[object, ...]:
    return model.encoder.config, model.decoder.config, model.decoder.sizes
