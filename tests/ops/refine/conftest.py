"""Lets the tests import the modules beside them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite(
    "bf16_checks", "exact_walks", "extreme_checks", "prior_checks", "step_checks", "variant_checks"
)
