"""The `dtag` command: one module per verb, each with `main(argv) -> int` (0 = everything asked for was done)."""
