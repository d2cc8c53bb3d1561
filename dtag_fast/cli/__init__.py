"""The `dtag` command: one module per verb with `main(argv) -> int`, 0 when everything asked for was done."""
