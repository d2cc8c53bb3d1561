"""Trajectories: the flat store, its readers and cache, window and transition sampling, reference scores.

The names below load their modules on first use: listing and converting datasets needs no torch.
"""

from dtag_fast.lazy_exports import lazy_exports

_EXPORTS = {
    "DiscreteActions": "dtag_fast.data.discrete",
    "delayed": "dtag_fast.data.delayed_rewards",
    "Episode": "dtag_fast.data.store",
    "TrajectoryStore": "dtag_fast.data.store",
    "load_dataset": "dtag_fast.data.cache",
    "list_local": "dtag_fast.data.catalog",
    "flatten_observation": "dtag_fast.data.spaces",
    "NormalizedScore": "dtag_fast.data.scores",
    "normalized_score": "dtag_fast.data.scores",
    "reference_of": "dtag_fast.data.scores",
    "why_no_score": "dtag_fast.data.scores",
    "ReplayBuffer": "dtag_fast.data.replay",
    "RewardWindows": "dtag_fast.data.reward_windows",
    "RewardWindowSampler": "dtag_fast.data.reward_windows",
    "Transitions": "dtag_fast.data.samplers",
    "TransitionWindows": "dtag_fast.data.transition_windows",
    "TransitionSampler": "dtag_fast.data.samplers",
    "Windows": "dtag_fast.data.window_table",
    "WindowSampler": "dtag_fast.data.samplers",
    "top_episodes": "dtag_fast.data.replay",
    "transitions": "dtag_fast.data.samplers",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
