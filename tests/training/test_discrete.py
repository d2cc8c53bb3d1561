"""Runs on discrete actions: resumed to the same bits, and far better than chance."""

import json

import cartpole
import gymnasium
import numpy as np
import pytest

from dtag_fast.algorithms.dt import Config as DT
from dtag_fast.algorithms.reinformer import Config as Reinformer
from dtag_fast.rollout import evaluate
from dtag_fast.training import load_policy, train

SMALL = {
    "context_len": 4,
    "d_model": 32,
    "n_layer": 2,
    "n_head": 2,
    "max_timestep": 500,
    "timestep_std": 0.02,
}
SMALL |= {"batch_size": 32, "warmup": 20}
CONFIGS = {"dt": DT(**SMALL, lr=3e-3), "reinformer": Reinformer(**SMALL, lr=1e-2)}
every_algorithm = pytest.mark.parametrize("algorithm", CONFIGS)


class Stop(Exception):
    pass


def stop_at_six(step, run):
    if step == 6:
        raise Stop
    return {}


@every_algorithm
def test_a_stopped_run_goes_on_to_the_same_bits(algorithm, tmp_path, assert_same_bits):
    store = cartpole.scripted_store(5, steps=30)
    options = {"config": CONFIGS[algorithm], "updates": 10, "checkpoint_every": 3, "seed": 4}
    whole = train(algorithm, store, out=tmp_path / "whole", **options)
    with pytest.raises(Stop):
        train(algorithm, store, out=tmp_path / "stopped", evaluate=stop_at_six, eval_every=2, **options)
    stopped = train(algorithm, store, out=tmp_path / "stopped", resume=True, **options)
    assert_same_bits(whole, stopped)


def random_returns(episodes: int) -> np.ndarray:
    env, rng = gymnasium.make(cartpole.ENV_ID), np.random.default_rng(0)
    played = [cartpole.play(env, seed, lambda _: int(rng.integers(2))) for seed in range(episodes)]
    return np.array([episode.rewards.sum() for episode in played])


@every_algorithm
def test_it_imitates_the_script_and_keeps_the_pole_up(algorithm, tmp_path):
    """300 updates of a small network; a policy of chance falls after some 20 steps, the script never."""
    store = cartpole.scripted_store(40, steps=100)
    run = train(
        algorithm,
        store,
        config=CONFIGS[algorithm],
        out=tmp_path / "run",
        updates=300,
        log_every=100,
        holdout=0.1,
        validate_every=300,
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    accuracy = [row["train/accuracy"] for row in rows if "train/accuracy" in row]
    assert accuracy[0] < accuracy[-1] and accuracy[-1] > 0.93
    (held_out,) = [row["valid/accuracy"] for row in rows if "valid/accuracy" in row]
    assert held_out > 0.88

    policy = load_policy(run)
    assert (policy.info.discrete_actions, policy.info.action_low) == ({"n": 2, "start": 0}, [])
    assert policy.model.config.discrete and policy.info.env_id == cartpole.ENV_ID
    result = evaluate(policy, episodes=5, seed=0).settings[0]
    chance = random_returns(50)
    assert chance.mean() < 30 and chance.max() < 200
    assert min(result.returns) > 10 * chance.mean()


def test_checkpoints_of_before_have_continuous_actions(store, configs, tmp_path):
    run = train("dt", store, config=configs["dt"], out=tmp_path / "run", updates=2)
    now, path = load_policy(run), run / "checkpoints" / "2" / "config.json"
    config = json.loads(path.read_text())
    assert config["networks"]["model"]["config"].pop("discrete") is False
    assert config["info"].pop("discrete_actions") is None
    path.write_text(json.dumps(config))
    before = load_policy(run)
    assert before.info == now.info and before.model.config == now.model.config
