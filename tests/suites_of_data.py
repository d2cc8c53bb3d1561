"""A budget and data as small as can be, for suites that train on datasets."""

import dataclasses
from pathlib import Path

from dtag_fast.data.catalog import minari_root_at
from dtag_fast.data.random_policy import make_random
from dtag_fast.experiments.reproduction.budget import SMALL

DATASET = "local/hopper/medium-v0"
TINY = dataclasses.replace(
    SMALL,
    updates=dict.fromkeys(SMALL.updates, 2),
    episodes=2,
    tuning_episodes=2,
    maze_steps=900,
    ag_steps=2,
    ag_lr=(0.01, 0.1),
)


def make_data(root: Path) -> Path:
    """A Minari root that holds DATASET alone, random episodes of a hopper under the name of a D4RL task."""
    with minari_root_at(root):
        make_random("Hopper-v5", 300, 0, DATASET)
    return root
