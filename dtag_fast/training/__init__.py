"""Training loop, run folders, checkpoints. Knows nothing of the algorithm it runs."""

from dtag_fast.training.behaviour import behaviour_of, fit_behaviour, load_behaviour, save_behaviour
from dtag_fast.training.capture import TrainingSteps, why_not_capture
from dtag_fast.training.checkpoint import (
    LoadedCritic,
    LoadedPolicy,
    RunInfo,
    load_critic,
    load_info,
    load_policy,
)
from dtag_fast.training.gate import disagreement, gated, load_gated
from dtag_fast.training.loop import train
from dtag_fast.training.seeds import train_seeds

__all__ = [
    "LoadedCritic",
    "LoadedPolicy",
    "RunInfo",
    "TrainingSteps",
    "behaviour_of",
    "disagreement",
    "fit_behaviour",
    "gated",
    "load_behaviour",
    "load_critic",
    "load_gated",
    "load_info",
    "load_policy",
    "save_behaviour",
    "train",
    "train_seeds",
    "why_not_capture",
]
