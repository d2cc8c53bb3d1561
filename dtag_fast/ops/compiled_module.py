"""`dtag_fast._C`, the compiled core, or why it is not there."""

from __future__ import annotations

from .openmp import share_threads

try:
    from dtag_fast import _C
except ImportError as error:  # built with DTAG_BUILD=0, or compiled for another Python
    _C = None
    _missing: str | None = (
        f"the compiled module dtag_fast._C is missing ({error}); DTAG_BUILD=0 leaves it out, "
        "`pip install -e .` with a C++ compiler builds it"
    )
else:  # `IqlUpdate` came last
    _older = "the compiled module dtag_fast._C is older than the package; run `pip install -e .` again"
    _missing = None if hasattr(_C, "IqlUpdate") else _older

THREADS = "" if _missing else share_threads(_C)  # on whose threads it runs, and why


def why_missing() -> str | None:
    """Why the compiled module cannot be used, or None."""
    return _missing


def instruction_sets() -> list[str]:
    """Those that the module has and this machine runs, slowest first; none where it is missing."""
    return [] if _missing else list(_C.isas())
