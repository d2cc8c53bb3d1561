"""Sweeps over evaluation-time settings: many cells, one table, resumed where they were interrupted.

The names below load their modules on first use.
"""

from dtag_fast.lazy_exports import lazy_exports

_EXPORTS = {
    "Cell": "dtag_fast.sweep.cells",
    "SweepResult": "dtag_fast.sweep.result",
    "settings_grid": "dtag_fast.sweep.cells",
    "read_settings": "dtag_fast.sweep.settings_file",
    "sweep": "dtag_fast.sweep.running",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
