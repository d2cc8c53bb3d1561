"""Decision Transformers that act better than they imitate: Action Gradient refinement at kernel speed.

The names below load their modules on first use, so `import dtag_fast` needs neither torch nor a GPU.
"""

from dtag_fast.lazy_exports import lazy_exports

__version__ = "0.1.0"

_EXPORTS = {
    name: "dtag_fast.ops.refine"
    for name in (
        "refine",
        "Refiner",
        "explain",
        "SGD",
        "Adam",
        "RMSprop",
        "ClipNorm",
        "Radius",
        "Variant",
        "Prior",
        "RefineInfo",
        "CriticProgram",
    )
}

__all__ = sorted([*_EXPORTS, "__version__"])
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
