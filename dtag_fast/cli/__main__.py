"""`python -m dtag_fast.cli`, the form that torchrun takes."""

import os
import sys

from dtag_fast.cli.main import main

code = main()
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # All is written and closed. Gloo's threads may still hold tensors, and where one is dropped while Python
    # ends, the process aborts: seen once in some hundred runs (PyTorch's pull request 179291).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
