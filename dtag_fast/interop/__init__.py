"""Critics and policies of other libraries in, ours out."""

from dtag_fast.lazy_exports import lazy_exports

_EXPORTS = {
    "load_critic": "dtag_fast.interop.loading",
    "save_pretrained": "dtag_fast.interop.pretrained",
    "from_pretrained": "dtag_fast.interop.pretrained",
    "Pretrained": "dtag_fast.interop.pretrained",
    "export_onnx": "dtag_fast.interop.export.onnx_file",
    "export_program": "dtag_fast.interop.export.torch_program",
    "ForeignCritic": "dtag_fast.models.foreign_critic",
    "Scaling": "dtag_fast.models.foreign_critic",
    "ForeignPolicy": "dtag_fast.interop.policies.loading",
    "read_policy": "dtag_fast.interop.policies.loading",
    "convert_policy": "dtag_fast.interop.policies.conversion",
    "convert_critic": "dtag_fast.interop.critic_conversion",
    "draft_keys": "dtag_fast.interop.policies.draft",
    "PolicyPredictor": "dtag_fast.interop.bridges.policy_predictor",
    "RecordRewards": "dtag_fast.interop.bridges.record_rewards",
    "RefineActions": "dtag_fast.interop.bridges.refine_actions",
    "RefinedPredictor": "dtag_fast.interop.bridges.refined_predictor",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
