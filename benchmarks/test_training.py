"""Updates of DT, Reinformer and IQL against loops written the usual way, on the same networks, taking turns.

Ours is an update as `dtag train` makes it: sampling on the training device, losses summed and not read.
"""

import os

import numpy as np
import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.algorithms.dt import Config as DT
from dtag_fast.algorithms.iql import Config as IQL
from dtag_fast.algorithms.reinformer import Config as Reinformer
from dtag_fast.data import Episode, TrajectoryStore
from dtag_fast.training.loop import numbers_in
from dtag_fast.training.metrics import WindowMeans

from .interleave import cores, measure
from .peers import training as usual
from .peers.sequence import PlainDecisionTransformer

STATE_DIM, ACTION_DIM, EPISODES, STEPS, SCALE = 17, 6, 400, 250, 1000.0
OURS, BF16, PEER = "dtag_fast", "dtag_fast bf16", "usual loop"
CONFIGS = {
    "dt": DT(return_scale=SCALE),  # d=128, 3 layers, K=20, batches of 64
    "reinformer": Reinformer(return_scale=SCALE),  # d=256, 4 layers, K=5, batches of 128
    "iql": IQL(policy=True),  # [256, 256], batches of 256
}
WANTED = {"dt": 1.15, "reinformer": None, "iql": 1.6}  # times as fast as the usual loop


def dataset() -> TrajectoryStore:
    rng = np.random.default_rng(0)
    cut = np.arange(STEPS) == STEPS - 1
    episodes = [
        Episode(
            rng.normal(size=(STEPS + 1, STATE_DIM)),
            rng.uniform(-1, 1, (STEPS, ACTION_DIM)),
            rng.random(STEPS),
            np.zeros(STEPS, bool),
            cut,
        )
        for _ in range(EPISODES)
    ]
    bounds = {"action_low": [-1.0] * ACTION_DIM, "action_high": [1.0] * ACTION_DIM}
    return TrajectoryStore.from_episodes(
        episodes, {"dataset_id": "random", "max_episode_steps": STEPS} | bounds
    )


def ours(algorithm: str, store: TrajectoryStore, precision: str):
    """An update, and the learner."""
    learner = create(algorithm, store, CONFIGS[algorithm])
    sampler, generator, window = learner.make_sampler(store), torch.Generator().manual_seed(0), WindowMeans()

    def step() -> None:
        with numbers_in(precision, learner.device):
            window.add(learner.update(sampler.sample(generator)))

    return step, learner


def peer(algorithm: str, store: TrajectoryStore) -> usual.Step:
    config = CONFIGS[algorithm]
    learner = create(algorithm, store, config)
    if algorithm == "dt":
        network = learner.model
        plain = PlainDecisionTransformer(network.config)
        plain.load_state_dict(network.state_dict())
        return usual.decision_transformer(plain.train(), store, SCALE, config.batch_size)
    if algorithm == "reinformer":
        return usual.reinformer(learner.model.train(), store, SCALE, config.batch_size)
    return usual.iql(learner.critic, learner.value, learner.policy, store, config.batch_size)


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_training(benchmark, request, algorithm: str):
    threads, store = min(2, len(os.sched_getaffinity(0))), dataset()
    with cores(threads):
        step, learner = ours(algorithm, store, "fp32")
        calls = {OURS: step, BF16: ours(algorithm, store, "bf16")[0], PEER: peer(algorithm, store)}
        measured = measure(calls, seconds=2 * request.config.getoption("seconds"))
        benchmark(step)
    assert learner.updates_done > 0
    benchmark.extra_info |= {
        "threads": threads,
        "reference": OURS,
        "variants": measured,
        "parameters": usual.parameters_of(*learner.exports.values()),
        "wanted_ratio": {PEER: WANTED[algorithm]},
    }
