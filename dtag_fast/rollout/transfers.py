"""Copies between the host, where environments live, and a policy's device, and what they cost."""

import time

import numpy as np
import torch
from torch import Tensor


class Transfers:
    """Host arrays to tensors of `device` and back; on a CPU nothing is copied."""

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)

    def to_device(self, array: np.ndarray) -> Tensor:
        """`array` as a tensor of the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def to_host(self, tensor: Tensor) -> np.ndarray:
        """`tensor` as an array."""
        return tensor.cpu().numpy()


class TimedTransfers(Transfers):
    """Transfers that add up their wall time.

    What the device still computes is waited for before the clock starts, so that no kernel counts as a copy.
    On a CPU, where nothing is copied, they take no time.
    """

    def __init__(self, device: torch.device | str):
        super().__init__(device)
        self._nanoseconds = 0

    def to_device(self, array: np.ndarray) -> Tensor:
        if self.device.type == "cpu":
            return super().to_device(array)
        began = now(self.device)
        tensor = super().to_device(array)
        self._nanoseconds += now(self.device) - began
        return tensor

    def to_host(self, tensor: Tensor) -> np.ndarray:
        if self.device.type == "cpu":
            return super().to_host(tensor)
        began = now(self.device)
        array = super().to_host(tensor)
        self._nanoseconds += now(self.device) - began
        return array

    def take(self) -> int:
        """Nanoseconds since the last `take`."""
        taken, self._nanoseconds = self._nanoseconds, 0
        return taken


def now(device: torch.device) -> int:
    """`time.perf_counter_ns` once all that was given to a CUDA device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter_ns()
