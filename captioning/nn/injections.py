"""Injections: where the image vector v enters a decoder.

An injection can contribute to the initial state, to the gates of the recurrent core, and to the
readout. Each contribution is computed once per image. A cell has k gates per hidden unit (4 in an
LSTM), so the term of the gates has kH values.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from captioning.nn.cells import CellState
from captioning.nn.cores import StackCore
from captioning.nn.decoder_config import InjectionName
from captioning.nn.state import ImageContext


class Injection(nn.Module):
    """Base class: v contributes nothing.

    Args:
        feature_size: D, size of v.
        embedding_size: E, size of a word vector.
        stack_size: Number of values in the initial state.
    """

    def __init__(self, feature_size: int, embedding_size: int, stack_size: int) -> None:
        super().__init__()

    def build_state(self, v: Float[Tensor, "B D"], core: StackCore) -> CellState:
        """Return the initial state of the core's stack."""
        return core.initial_stack_state(len(v))

    def project_gates(self, v: Float[Tensor, "B D"], core: StackCore) -> Tensor | None:
        """Return the image term of the gates, ``(B, kH)``, or None."""
        return None

    def project_readout(self, v: Float[Tensor, "B D"]) -> Tensor | None:
        """Return the image term of the readout, ``(B, E)``, or None."""
        return None

    def after_step(self, context: ImageContext) -> ImageContext:
        """Return the image terms for the steps after this one."""
        return context


class NoInjection(Injection):
    """No image: the decoder is a language model (Mikolov et al. 2010)."""


class RecurrentInjection(Injection):
    """v in the gates of every step: ``W_xh x + W_hh h + W_vh v + b``."""

    def project_gates(self, v: Float[Tensor, "B D"], core: StackCore) -> Tensor | None:
        """Return ``W_vh v``."""
        return core.project_image(v)


class FirstWordInjection(RecurrentInjection):
    """v in the gates of only the step that predicts the first word.

    Karpathy & Fei-Fei (2015), section 3.3:

    ``W_xh x_t + W_hh h_{t-1} + 1(t=1) W_vh v + b``
    """

    def after_step(self, context: ImageContext) -> ImageContext:
        """Return the context without the image term of the gates."""
        return replace(context, gates=None)


class FirstStepInjection(Injection):
    """v as the input of an additional first step (Vinyals et al. 2015, section 3.1).

    ``x_{-1} = W_vx v + b_v``
    """

    def __init__(self, feature_size: int, embedding_size: int, stack_size: int) -> None:
        super().__init__(feature_size, embedding_size, stack_size)
        self.W_vx = nn.Linear(feature_size, embedding_size)

    def build_state(self, v: Float[Tensor, "B D"], core: StackCore) -> CellState:
        """Return the state after a step that reads ``W_vx v + b_v``."""
        gates = core.cell.project_input(self.W_vx(v))
        return core.step_stack(gates, core.initial_stack_state(len(v)))


class InitStateInjection(Injection):
    """v as the initial state of every layer (Xu et al. 2015, section 3.1.2).

    ``[h_0; c_0] = tanh(W_v0 v + b_0)``
    """

    def __init__(self, feature_size: int, embedding_size: int, stack_size: int) -> None:
        super().__init__(feature_size, embedding_size, stack_size)
        self.W_v0 = nn.Linear(feature_size, stack_size)

    def build_state(self, v: Float[Tensor, "B D"], core: StackCore) -> CellState:
        """Return the projection of v, split into the parts of the state."""
        parts = len(core.initial_stack_state(len(v)))
        return torch.tanh(self.W_v0(v)).chunk(parts, 1)


class EveryInputInjection(Injection):
    """v concatenated with the word at the input of every step (Donahue et al. 2015, section 4.2).

    ``W_xh [x; W_vx v + b_v] + W_hh h + b``
    """

    def __init__(self, feature_size: int, embedding_size: int, stack_size: int) -> None:
        super().__init__(feature_size, embedding_size, stack_size)
        self.W_vx = nn.Linear(feature_size, embedding_size)

    def project_gates(self, v: Float[Tensor, "B D"], core: StackCore) -> Tensor | None:
        """Return the image's part of ``W_xh [x; W_vx v + b_v]``.

        It is the product of the last E columns of ``W_xh`` and ``W_vx v + b_v``.
        """
        return core.project_image_input(self.W_vx(v))


class MergeInjection(Injection):
    """v in the readout only (Mao et al. 2014, section 3).

    ``r = tanh(W_hr h + W_vr v + b_r)``; :mod:`captioning.nn.readouts` has the variants.
    """

    def __init__(self, feature_size: int, embedding_size: int, stack_size: int) -> None:
        super().__init__(feature_size, embedding_size, stack_size)
        self.W_vr = nn.Linear(feature_size, embedding_size, bias=False)

    def project_readout(self, v: Float[Tensor, "B D"]) -> Tensor | None:
        """Return ``W_vr v``."""
        return self.W_vr(v)


INJECTIONS: dict[InjectionName, type[Injection]] = {
    "recurrent": RecurrentInjection,
    "first_word": FirstWordInjection,
    "first_step": FirstStepInjection,
    "init_state": InitStateInjection,
    "merge": MergeInjection,
    "every_input": EveryInputInjection,
    "none": NoInjection,
}
