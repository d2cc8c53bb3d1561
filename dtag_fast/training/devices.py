"""Devices by their names."""

import torch


def find_device(device: str | torch.device) -> torch.device:
    """A device that PyTorch can compute on here.

    Raises:
        ValueError: no such name, or a CUDA device that PyTorch does not see.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected cpu, cuda or one such as cuda:0, got {device!r}") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: expected one of this machine, got {device}, and PyTorch {torch.__version__} sees "
            f"{torch.cuda.device_count() or 'no'} CUDA devices; take cpu, or a PyTorch that is built for the "
            "machine's GPU"
        )
    return found
