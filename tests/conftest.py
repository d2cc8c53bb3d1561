"""One torch thread per process, as those of several fight for the cores; without a GPU, Triton's interpreter.

Both are read at the first import of torch and Triton, so they are set before any test module is. Lets the
tests import the modules of this folder.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
