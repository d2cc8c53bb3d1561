"""Evaluation with Action Gradient of 100 episodes at once against the one-environment loop written as usual.

And without Action Gradient, for what it adds. Times are per environment step, of loops over environments that
exist already. The networks are untrained, which changes no time; Hopper is told not to end when it falls, so
that both loops play episodes of one length.
Ours may use two cores; the usual loop gets one thread of PyTorch, with which it is fastest.
"""

import os
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pytest
import torch

from dtag_fast.models import (
    DecisionTransformer,
    DecisionTransformerConfig,
    Reinformer,
    ReinformerConfig,
    TwinCritic,
)
from dtag_fast.rollout import AGSetting, evaluate, make_env
from dtag_fast.rollout.reference import autograd_action_gradient, play_episode
from dtag_fast.training import LoadedCritic, LoadedPolicy, RunInfo

from .interleave import cores

ENVIRONMENTS, STATE_DIM, ACTION_DIM = 100, 11, 3
AG_STEPS, AG_LR = 10, 0.03
ROUNDS = 4
REFERENCE = "dtag_fast, 100 environments"
PLAIN = "the same without Action Gradient"
PEER = "usual loop, one environment"
WANTED_OVERHEAD = 0.10  # of Action Gradient, over the time of all else


class Case(NamedTuple):
    """wanted: times the environment steps per second of the peer. tolerance: of a return, relative;
    physics amplifies the last bits of the actions, and bf16 has fewer."""

    kind: str
    context_len: int
    precision: str
    wanted: float
    tolerance: float = 0.02


CASES = {
    "reinformer-K5": Case("reinformer", 5, "fp32", 22.0),
    "reinformer-K5-bf16": Case("reinformer", 5, "bf16", 22.0, tolerance=0.2),
    "reinformer-K20": Case("reinformer", 20, "fp32", 11.0),
    "reinformer-K20-bf16": Case("reinformer", 20, "bf16", 15.0, tolerance=0.2),
    "dt": Case("dt", 20, "fp32", 6.0),
}


def networks(kind: str, context_len: int, episode_steps: int) -> tuple[LoadedPolicy, LoadedCritic]:
    """d=128, 3 layers, one head."""
    sizes = {"state_dim": STATE_DIM, "action_dim": ACTION_DIM, "d_model": 128, "n_layer": 3, "n_head": 1}
    torch.manual_seed(0)
    if kind == "reinformer":
        model = Reinformer(ReinformerConfig(context_len=context_len, return_scale=1000.0, **sizes))
    else:
        config = DecisionTransformerConfig(context_len=context_len, return_scale=1000.0, **sizes)
        model = DecisionTransformer(config)
    info = RunInfo(
        algorithm=kind,
        kind="policy",
        step=0,
        seed=0,
        state_dim=STATE_DIM,
        action_dim=ACTION_DIM,
        state_mean=[0.0] * STATE_DIM,
        state_std=[1.0] * STATE_DIM,
        action_low=[-1.0] * ACTION_DIM,
        action_high=[1.0] * ACTION_DIM,
        best_return=3600.0,
        target_returns=[] if kind == "reinformer" else [3600.0],
        env_id="Hopper-v5",
        env_spec={
            "id": "Hopper-v5",
            "kwargs": {"terminate_when_unhealthy": False},
            "max_episode_steps": episode_steps,
        },
    )
    critic = TwinCritic(STATE_DIM, ACTION_DIM, hidden=(256, 256))
    return LoadedPolicy(model.eval(), info), LoadedCritic(critic.eval(), info)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_evaluation_loop(benchmark, case):
    threads = min(2, len(os.sched_getaffinity(0)))
    policy, critic = networks(case.kind, case.context_len, episode_steps=50)
    info = policy.info
    target = info.target_returns[0] if info.target_returns else None
    env = make_env(info.env_id, info.env_spec)
    improve = autograd_action_gradient(critic.critic, AG_STEPS, AG_LR, -1.0, 1.0)
    shares: list[dict[str, float]] = []

    everything = {"episodes": ENVIRONMENTS, "max_envs": ENVIRONMENTS, "seed": 0, "precision": case.precision}

    def batched():
        result = evaluate(policy, critic=critic, settings=[AGSetting(AG_STEPS, AG_LR)], **everything)
        shares.append(result.wall_time.split)
        return result

    def plain():
        return evaluate(policy, **everything)

    def usual(seed: int) -> tuple[float, float]:
        torch.set_num_threads(1)  # products of one window are too small to share: more threads only wait
        began = perf_counter()
        trace = play_episode(policy.model, env, seed, target, improve)
        seconds = perf_counter() - began
        torch.set_num_threads(threads)
        return seconds / len(trace.rewards), trace.episode_return

    times: dict[str, list[float]] = {REFERENCE: [], PLAIN: [], PEER: []}
    with cores(threads):
        returns = batched().settings[0].returns  # the first calls of both are not counted
        alone = [usual(seed)[1] for seed in range(3)]
        assert returns[:3] == pytest.approx(alone, rel=case.tolerance)
        plain()
        for seed in range(ROUNDS):
            times[REFERENCE].append(1.0 / batched().steps_per_second)
            times[PLAIN].append(1.0 / plain().steps_per_second)
            times[PEER].append(usual(seed)[0])
        benchmark.pedantic(batched, rounds=1)
    env.close()
    variants = {name: summary(values) for name, values in times.items()}
    split = {name: float(np.median([s[name] for s in shares])) for name in shares[0]}
    benchmark.extra_info |= {
        "environments": ENVIRONMENTS,
        "threads": threads,
        "ag_steps": AG_STEPS,
        "reference": REFERENCE,
        "variants": variants,
        "precision": case.precision,
        "wanted_ratio": case.wanted,
        # Within a run, which a busy machine disturbs less than the ratio of runs.
        "ag_overhead": split["refine"] / (1.0 - split["refine"]),
        "ag_overhead_of_runs": variants[REFERENCE]["median"] / variants[PLAIN]["median"] - 1.0,
        "wanted_ag_overhead": WANTED_OVERHEAD,
        "steps_per_second": {name: 1.0 / v["median"] for name, v in variants.items()},
        "split": split,
    }


def summary(times: list[float]) -> dict[str, float]:
    q25, median, q75 = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q25": q25, "q75": q75, "rounds": len(times), "calls": 1}
