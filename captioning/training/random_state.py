"""State of the random number generators, saved so that a run resumes exactly."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RandomState:
    """State of torch's generators on the CPU and on the device of the model."""

    device: torch.device
    states: list[Tensor]

    @classmethod
    def from_seed(cls, seed: int, device: torch.device) -> "RandomState":
        """Return the state after seeding. The generators of the process are not changed."""
        states = [torch.Generator().manual_seed(seed).get_state()]
        if device.type != "cpu":
            states.append(torch.Generator(device).manual_seed(seed).get_state())
        return cls(device, states)

    def load(self, states: list[Tensor]) -> None:
        """Take over saved states. Devices that the saved run did not have keep their own."""
        self.states = states[: len(self.states)] + self.states[len(states) :]

    @property
    def _device_arguments(self) -> tuple[torch.device, ...]:
        """Return the device for backends that have several; others take no argument."""
        return (self.device,) if self.device.type == "cuda" else ()

    def restore(self) -> None:
        """Set the generators of the process to this state."""
        torch.set_rng_state(self.states[0])
        if self.device.type != "cpu":
            module = torch.get_device_module(self.device)
            module.set_rng_state(self.states[1], *self._device_arguments)

    def capture(self) -> None:
        """Store the current state of the generators of the process."""
        self.states = [torch.get_rng_state()]
        if self.device.type != "cpu":
            module = torch.get_device_module(self.device)
            self.states.append(module.get_rng_state(*self._device_arguments))
