"""Where the tests of Triton's kernels run: on a GPU where there is one, else in Triton's interpreter.

A module that imports this is skipped where neither can be.
"""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    from dtag_fast.ops.attention.kernels import attention_forward

    if type(attention_forward).__name__ != "InterpretedFunction":
        pytest.skip("TRITON_INTERPRET=1 came after the first import of triton", allow_module_level=True)
