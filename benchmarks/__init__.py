"""Speed beside the peers, in one run: `pytest benchmarks --benchmark-only`; report.py prints its JSON."""
