"""Online fine-tuning of trained policies: collect episodes, learn from all there are, evaluate; resumable.

The names below load their modules on first use.
"""

from dtag_fast.lazy_exports import lazy_exports

_EXPORTS = {
    "OnlineConfig": "dtag_fast.finetuning.settings",
    "finetune": "dtag_fast.finetuning.loop",
    "online_preset": "dtag_fast.finetuning.settings",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
