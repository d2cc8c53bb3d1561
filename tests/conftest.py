"""One torch thread per process: those of several processes fight for the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
