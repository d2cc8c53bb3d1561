"""Numbers of others, each with its source. They stand in columns of their own and enter no comparison."""

# CORL's readme, scores at the end of training on D4RL's v2 (Gym) and v1 (maze2d) data
CORL_LAST = {
    "halfcheetah-medium": {"BC": 42.40, "AWAC": 50.02, "IQL": 48.31, "DT": 42.20},
    "halfcheetah-medium-replay": {"BC": 35.66, "AWAC": 45.13, "IQL": 44.46, "DT": 38.91},
    "halfcheetah-medium-expert": {"BC": 55.95, "AWAC": 95.00, "IQL": 94.74, "DT": 91.55},
    "hopper-medium": {"BC": 53.51, "AWAC": 63.02, "IQL": 67.53, "DT": 65.10},
    "hopper-medium-replay": {"BC": 29.81, "AWAC": 98.88, "IQL": 97.43, "DT": 81.77},
    "hopper-medium-expert": {"BC": 52.30, "AWAC": 101.90, "IQL": 107.42, "DT": 110.44},
    "walker2d-medium": {"BC": 63.23, "AWAC": 68.52, "IQL": 80.91, "DT": 67.63},
    "walker2d-medium-replay": {"BC": 21.80, "AWAC": 80.62, "IQL": 82.15, "DT": 59.86},
    "walker2d-medium-expert": {"BC": 98.96, "AWAC": 111.44, "IQL": 111.72, "DT": 107.11},
    "maze2d-umaze": {"BC": 0.36, "AWAC": 65.65, "IQL": 42.11, "DT": 18.08},
    "maze2d-medium": {"BC": 0.79, "AWAC": 84.63, "IQL": 34.85, "DT": 31.71},
    "maze2d-large": {"BC": 2.26, "AWAC": 215.50, "IQL": 61.72, "DT": 35.66},
}

# Action Gradient, arXiv 2510.05285: totals of Reinformer + AG, over nine tasks and three
AG_TOTAL_GYM, AG_TOTAL_MAZE2D = 757.8, 193.9


def corl(methods: tuple[str, ...], tasks: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Columns of CORL's scores for `score_table`, with the totals over all `tasks`."""
    columns = {}
    for method in methods:
        column = {task: CORL_LAST[task][method] for task in tasks}
        columns[f"{method}, CORL's readme"] = column | {"total": round(sum(column.values()), 1)}
    return columns
