"""Trajectories: the flat store, its readers and cache, window and transition sampling, reference scores.

The names below load their modules on first use: listing and converting datasets needs no torch.
"""

from importlib import import_module

_EXPORTS = {
    "DiscreteActions": "dtag_fast.data.discrete",
    "Episode": "dtag_fast.data.store",
    "TrajectoryStore": "dtag_fast.data.store",
    "load_dataset": "dtag_fast.data.cache",
    "list_local": "dtag_fast.data.catalog",
    "flatten_observation": "dtag_fast.data.spaces",
    "NormalizedScore": "dtag_fast.data.scores",
    "normalized_score": "dtag_fast.data.scores",
    "reference_of": "dtag_fast.data.scores",
    "RewardWindows": "dtag_fast.data.reward_windows",
    "RewardWindowSampler": "dtag_fast.data.reward_windows",
    "Transitions": "dtag_fast.data.samplers",
    "TransitionSampler": "dtag_fast.data.samplers",
    "Windows": "dtag_fast.data.samplers",
    "WindowSampler": "dtag_fast.data.samplers",
    "transitions": "dtag_fast.data.samplers",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dtag_fast.data' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
