"""PointMaze collector: a walk on the bare model beside the same controller through `env.step`."""

import numpy as np
import pytest

from dtag_fast.data.pointmaze import MAZES, collect
from dtag_fast.data.pointmaze.physics import make_gym_env
from dtag_fast.data.pointmaze.waypoints import ControllerConfig, WaypointController

from .interleave import cores, measure

STEPS = 4000  # per call
REFERENCE = "dtag_fast"


def through_the_environment(env, maze, seed: int = 0) -> None:
    """The collector written the usual way: one `env.step` after the other."""
    rng = np.random.default_rng(seed)
    controller = WaypointController(maze, ControllerConfig(), rng)
    observation, _ = env.reset(seed=seed)
    state = observation["observation"]
    observations, actions = [state], []
    for _ in range(STEPS):
        force = np.array(controller.force(*state.tolist())) + 0.5 * rng.standard_normal(2)
        action = np.clip(force, -1, 1).astype(np.float32)
        state = env.step(action)[0]["observation"]
        observations.append(state)
        actions.append(action)


@pytest.mark.parametrize("size", list(MAZES))
def test_collector(benchmark, size):
    """Wanted: at least 5k steps/s on one core."""
    maze = MAZES[size]
    env = make_gym_env(maze).unwrapped
    with cores(1):
        calls = {
            REFERENCE: lambda: collect(maze, STEPS, seed=0),
            "same controller, env.step": lambda: through_the_environment(env, maze),
        }
        measured = measure(calls, seconds=3.0)
        benchmark.extra_info |= {
            "threads": 1,
            "reference": REFERENCE,
            "variants": measured,
            "steps_per_second": STEPS / measured[REFERENCE]["median"],
        }
        benchmark.pedantic(calls[REFERENCE], rounds=3)
    env.close()
