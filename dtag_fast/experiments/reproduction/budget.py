"""How much is trained and played."""

from dataclasses import dataclass
from typing import Any

TUNING_SEED = 0  # of the trainings that step sizes are chosen on; none of them is reported
FIRST_TUNING_EPISODE = 50_000
FIRST_EPISODE = 1_000

_SIZES = {"context_len": 5, "d_model": 64, "n_layer": 2, "batch_size": 64, "dropout": 0.0, "warmup": 500}

_ONLINE_SIZES = {"context_len": 5, "d_model": 64, "n_layer": 2, "n_head": 4, "batch_size": 64}
_ONLINE_SIZES |= {"lr": 1e-3, "warmup": 300}


@dataclass(frozen=True)
class Budget:
    """Sizes of a whole suite.

    Attributes:
        name: "small" or "full".
        seeds: trainings that are reported: 1, 2, ... seeds; 0 is for choosing.
        updates: by algorithm; of td3-odt those of its policy.
        changes: settings by algorithm that are not those of the dataset's preset.
        episodes: reported, of each setting. tuning_episodes: that choose a setting.
        maze_steps: of the walks that PointMaze's data are collected on.
        env_steps: played online, in Gym. online: settings of that part that are not those of the dataset's
            preset. eval_every: its iterations between evaluations.
        elsewhere: how many times as long policies that go online are trained offline, and play, on tasks that
            are not Gym's.
        ag_steps: n of Action Gradient. ag_lr: step sizes to choose from.
    """

    name: str
    seeds: int
    updates: dict[str, int]
    changes: dict[str, dict[str, Any]]
    episodes: int
    tuning_episodes: int
    maze_steps: int
    env_steps: int
    online: dict[str, Any]
    eval_every: int
    elsewhere: tuple[int, int] = (1, 1)
    ag_steps: int = 10
    ag_lr: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


SMALL = Budget(
    name="small",
    seeds=3,
    updates={"bc": 10_000, "dt": 5_000, "reinformer": 5_000, "adt": 5_000, "edt": 5_000, "qt": 5_000}
    | dict.fromkeys(("iql", "td3bc", "awac"), 30_000)
    | {"cql": 10_000, "odt": 3_000, "td3-odt": 3_000},
    changes={
        "bc": {"lr": 1e-3, "warmup": 500},
        "dt": _SIZES | {"lr": 1e-3, "timestep_std": 0.02},
        "adt": _SIZES | {"lr": 1e-3, "timestep_std": 0.02},
        "reinformer": _SIZES | {"n_head": 4, "lr": 3e-3, "timestep_std": 0.02},
        "edt": _SIZES | {"n_head": 4, "lr": 1e-3},
        "qt": {"context_len": 5, "d_model": 64, "n_layer": 2, "batch_size": 64},
        "iql": {"policy": True, "policy_horizon": 30_000},
        "odt": _ONLINE_SIZES,
        "td3-odt": _ONLINE_SIZES,
    },
    episodes=20,
    tuning_episodes=10,
    maze_steps=200_000,
    env_steps=20_000,
    online={"episodes_per_iteration": 1, "steps_per_iteration": 1_000, "updates_per_iteration": 500},
    eval_every=4,
)

FULL = Budget(
    name="full",
    seeds=4,
    updates={"bc": 100_000, "dt": 100_000, "reinformer": 50_000, "adt": 100_000, "edt": 50_000, "qt": 500_000}
    | dict.fromkeys(("iql", "td3bc", "awac", "cql"), 1_000_000)
    | dict.fromkeys(("odt", "td3-odt"), 5_000),
    changes={"iql": {"policy": True}},
    episodes=100,
    tuning_episodes=20,
    maze_steps=1_000_000,
    env_steps=500_000,
    online={},
    eval_every=10,
    elsewhere=(8, 2),
)

BUDGETS = {budget.name: budget for budget in (SMALL, FULL)}
