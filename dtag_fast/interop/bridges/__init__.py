"""Policies and Action Gradient in the places where other libraries expect theirs."""

from dtag_fast.lazy_exports import lazy_exports

_EXPORTS = {
    "PolicyPredictor": "dtag_fast.interop.bridges.policy_predictor",
    "RecordRewards": "dtag_fast.interop.bridges.record_rewards",
    "RefineActions": "dtag_fast.interop.bridges.refine_actions",
    "RefinedPredictor": "dtag_fast.interop.bridges.refined_predictor",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
