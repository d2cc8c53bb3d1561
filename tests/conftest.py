"""One torch thread per process: several test processes, or anything else at work beside them, fight for the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
