"""Lets the tests import kernel_checks.py, and chooses Triton's interpreter where there is no GPU.

Triton reads the variable when it is first imported, so it is set before any test runs.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("kernel_checks")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
