"""Training algorithms, one file each: config, losses, one `update`."""

from dtag_fast.algorithms.base import Algorithm, DataSpec, stream_seed
from dtag_fast.algorithms.registry import ALGORITHMS, Entry, config_from_dict, create, preset_config
from dtag_fast.algorithms.trained_critic import TrainedCritic

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "DataSpec",
    "Entry",
    "TrainedCritic",
    "config_from_dict",
    "create",
    "preset_config",
    "stream_seed",
]
