"""Sequence policies of other codes: key maps from their weights to our models, and a run folder of them."""

from dtag_fast.lazy_exports import lazy_exports

_EXPORTS = {
    "ForeignPolicy": "dtag_fast.interop.policies.loading",
    "read_policy": "dtag_fast.interop.policies.loading",
    "convert_policy": "dtag_fast.interop.policies.conversion",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
