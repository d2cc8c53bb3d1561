"""Acting in environments: stateful batched policies, evaluation with Action Gradient, statistics of returns.

The names below load their modules on first use.
"""

from dtag_fast.lazy_exports import lazy_exports

_EXPORTS = {
    "ActionGradient": "dtag_fast.rollout.action_gradient",
    "AGSetting": "dtag_fast.rollout.settings",
    "Behaviour": "dtag_fast.models.behaviour",
    "grid": "dtag_fast.rollout.settings",
    "Candidates": "dtag_fast.rollout.candidates",
    "Collected": "dtag_fast.rollout.collection",
    "Collection": "dtag_fast.rollout.collection",
    "CollectionTask": "dtag_fast.rollout.collection",
    "Collector": "dtag_fast.rollout.collection",
    "Exploration": "dtag_fast.rollout.exploration",
    "Environments": "dtag_fast.rollout.environments",
    "LatencyResult": "dtag_fast.rollout.latency",
    "measure_latency": "dtag_fast.rollout.latency",
    "make_env": "dtag_fast.rollout.environments",
    "EpisodesFailed": "dtag_fast.rollout.results",
    "EvaluationResult": "dtag_fast.rollout.results",
    "FailedEpisode": "dtag_fast.rollout.faults",
    "SettingResult": "dtag_fast.rollout.results",
    "ReactivePolicy": "dtag_fast.rollout.reactive",
    "SequencePolicy": "dtag_fast.rollout.policy",
    "evaluate": "dtag_fast.rollout.evaluation",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
