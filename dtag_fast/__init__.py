"""Decision Transformers that act better than they imitate: Action Gradient refinement at kernel speed.

The names below load their modules on first use, so `import dtag_fast` needs neither torch nor a GPU.
"""

from importlib import import_module

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
        "RefineInfo",
        "CriticProgram",
    )
}

__all__ = sorted([*_EXPORTS, "__version__"])


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dtag_fast' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
