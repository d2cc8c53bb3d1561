"""`python -m dtag_fast.cli`, the form that torchrun takes."""

import sys

from dtag_fast.cli.main import main

sys.exit(main())
