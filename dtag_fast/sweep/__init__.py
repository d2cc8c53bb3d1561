"""Sweeps over evaluation-time settings: many cells, one table, resumed where they were interrupted.

The names below load their modules on first use.
"""

from importlib import import_module

_EXPORTS = {
    "Cell": "dtag_fast.sweep.cells",
    "SweepResult": "dtag_fast.sweep.result",
    "settings_grid": "dtag_fast.sweep.cells",
    "read_settings": "dtag_fast.sweep.settings_file",
    "sweep": "dtag_fast.sweep.running",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dtag_fast.sweep' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
