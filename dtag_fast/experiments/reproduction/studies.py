"""The suites of `dtag reproduce` that train and evaluate on datasets."""

from dtag_fast.experiments.reproduction import benchmark_tables
from dtag_fast.experiments.reproduction.study import Study

STUDIES: dict[str, Study] = {"gym": benchmark_tables.GYM_STUDY, "maze2d": benchmark_tables.MAZE2D_STUDY}
