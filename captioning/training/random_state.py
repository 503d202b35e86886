"""Where chance stands, so that a run goes on as if it had never stopped."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RandomState:
    """Where chance stands, on the CPU and on the device that dropout draws from."""

    device: torch.device
    states: list[Tensor]

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> "RandomState":
        """Return the state after seeding, without touching the random numbers of the process."""
        states = [torch.Generator().manual_seed(seed).get_state()]
        if device.type != "cpu":
            states.append(torch.Generator(device).manual_seed(seed).get_state())
        return cls(device, states)

    @property
    def _which(self) -> tuple[torch.device, ...]:
        """Several cards have each their own; other kinds of device come alone."""
        return (self.device,) if self.device.type == "cuda" else ()

    def restore(self) -> None:
        """Let chance go on from here."""
        torch.set_rng_state(self.states[0])
        if self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(self.states[1], *self._which)

    def keep(self) -> None:
        """Remember where chance stands now."""
        self.states = [torch.get_rng_state()]
        if self.device.type != "cpu":
            module = torch.get_device_module(self.device)
            self.states.append(module.get_rng_state(*self._which))
