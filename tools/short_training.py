"""Trains every algorithm for a short while on one dataset and measures its errors on episodes held out of it.

    python -m tools.short_training DATASET --out docs/results/short-training-NAME.json [--runs FOLDER]

Policies: the mean squared error of the mean action per dimension, over every step of the held-out episodes,
cut into windows of K steps one after the other. Inputs are those of training: returns are the data's own, and
adt's are Q of the data's actions. To beat: behaviour cloning. Critics: the part of the variance of their
targets that Q leaves unexplained, mean (Q - y)^2 / var(y), over their validation batches. 1 is what the best
constant leaves; to beat: BOUND.

Settings are the published ones for the dataset but for those of SHARED, which all sequence models take, the
linear warm-ups, which are shortened in proportion to the updates and to half of them at most, and the step of
LAMB. One of its updates moves a layer by that fraction of its norm, whatever the gradient: 2,000 of the
published ones leave it within a fifth of where it began. adt takes the critic of the iql run.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine
from dtag_fast.algorithms import ALGORITHMS, TrainedCritic
from dtag_fast.algorithms.registry import preset_config
from dtag_fast.cli.train import DEFAULT_UPDATES
from dtag_fast.data import TrajectoryStore, WindowSampler, load_dataset
from dtag_fast.data.window_table import Windows
from dtag_fast.models import StatePolicy
from dtag_fast.training import LoadedPolicy, load_critic, load_policy, train
from dtag_fast.training.checkpoint import find_checkpoint, read_checkpoint_config
from dtag_fast.training.critic import load_trained_critic
from dtag_fast.training.run_folder import as_json, content_checksum
from dtag_fast.training.validation import split_episodes

YARDSTICK = "bc"
BOUND = 0.5  # of the unexplained part of the targets' variance
WITH_CRITIC = ("td3-odt", "ddpg-odt", "td3", "sac-odt", "awac-odt", "iql-odt")  # odt's relatives
LAMB_STEP = dict.fromkeys(("reinformer", "odt", *WITH_CRITIC), 1e-3)  # ten times the published ones
CRITIC_OF = {"adt": "iql"}  # policy -> the run whose critic it learns from
SHARED = {"context_len": 10, "d_model": 128, "n_layer": 3, "batch_size": 64}
QUICK = {"context_len": 3, "d_model": 16, "n_layer": 1, "n_head": 1, "batch_size": 8}
WINDOWS = 256  # windows in a batch of the measurement


def settings(name: str, metadata: dict[str, Any], updates: int, shared: dict[str, int]) -> tuple[Any, dict]:
    """An algorithm's config, and what of it is not as published, with the published values.

    Args:
        metadata: of the store, whose presets are taken.
        shared: settings that all sequence models take.
    """
    published = preset_config(name, metadata)
    fields = {field.name for field in dataclasses.fields(published)}
    changes: dict[str, Any] = {}
    if "context_len" in fields:
        changes |= {key: value for key, value in shared.items() if key in fields}
    if "eval_context_len" in fields:
        changes["eval_context_len"] = min(published.eval_context_len, shared["context_len"])
    if "warmup" in fields:
        shortened = min(round(published.warmup * updates / DEFAULT_UPDATES[name]), updates // 2)
        changes["warmup"] = max(shortened, 1)
    if name in LAMB_STEP:
        changes["lr"] = LAMB_STEP[name]
    config = dataclasses.replace(published, **changes)
    different = {
        key: {"published": getattr(published, key), "here": value}
        for key, value in changes.items()
        if getattr(published, key) != value
    }
    return config, different


def measure(
    store: TrajectoryStore,
    runs: Path,
    *,
    updates: int,
    holdout: float,
    seed: int,
    shared: dict[str, int],
    only: Collection[str] = ALGORITHMS,
) -> dict[str, Any]:
    """Train the algorithms, each into its folder of `runs`, and measure them; the result file's content.

    Runs that are there already are taken as they are, or continued.

    Args:
        updates, holdout, seed: as for `train`. shared: settings that all sequence models take.
        only: names of algorithms; the critic of one that learns from a critic must be among them.
    """
    rest, held_out = split_episodes(store, holdout, seed)
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(only, key=lambda name: name in CRITIC_OF):  # critics go first
        config, different = settings(name, store.metadata, updates, shared)
        critic = runs / CRITIC_OF[name] if name in CRITIC_OF else None
        run = train(
            name,
            store,
            out=runs / name,
            config=config,
            critic=critic,
            updates=updates,
            seed=seed,
            log_every=math.gcd(updates, 100),
            holdout=holdout,
            validate_every=updates,
            resume=True,
        )
        errors, log = errors_of(run, held_out, shared["context_len"], critic, store)
        found[name] = {"settings": different, **errors, **log}
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in errors.items())
        print(f"{name}: {numbers}; {log['seconds']:.0f} s of training", flush=True)
    return {
        "format": 1,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "dataset": {
            "id": store.metadata.get("dataset_id"),
            "crc32": content_checksum(store),
            "episodes": store.num_episodes,
            "steps": store.num_steps,
            "held_out_episodes": held_out.num_episodes,
            "held_out_steps": held_out.num_steps,
        },
        "updates": updates,
        "holdout": holdout,
        "seed": seed,
        "shared": shared,
        "yardstick": YARDSTICK,
        "bound": BOUND,
        "mean_action_error": mean_action_error(rest, held_out),
        "algorithms": as_json({name: found[name] for name in ALGORITHMS if name in found}),
    }


def errors_of(
    run: Path, held_out: TrajectoryStore, context_len: int, critic: Path | None, store: TrajectoryStore
) -> tuple[dict[str, float], dict[str, Any]]:
    """action_error of a run's policy and unexplained of its critic, where it is made for them; and what else
    its log holds: seconds of training, errors of its own validation."""
    checkpoint = find_checkpoint(run)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    valid = {k.removeprefix("valid/"): v for r in records for k, v in r.items() if k.startswith("valid/")}
    seconds = [record["time/seconds"] for record in records if "time/seconds" in record][-1]
    networks, errors = read_checkpoint_config(checkpoint)["networks"], {}
    if "model" in networks and (policy := load_policy(checkpoint)).info.kind == "policy":
        trained = None if critic is None else load_trained_critic(critic, store)[0]
        errors["action_error"] = action_error(policy, held_out, context_len, trained)
    if "critic" in networks:
        members = len(load_critic(checkpoint).critic.members)
        errors["unexplained"] = valid["td_error"] / (members * valid["target_variance"])
    return errors, {"seconds": seconds, "validation": valid}


def not_beaten(result: dict[str, Any]) -> list[str]:
    """A sentence for each algorithm that stays behind its yardstick."""
    found = result["algorithms"]
    cloned = found[result["yardstick"]]["action_error"]
    limits = {"action_error": (cloned, result["yardstick"]), "unexplained": (result["bound"], "the bound")}
    return [
        f"{name}: {measure} {entry[measure]:.4g} is not below the {limit:.4g} of {whose}"
        for name, entry in found.items()
        for measure, (limit, whose) in limits.items()
        if measure in entry and name != result["yardstick"] and not entry[measure] < limit
    ]


@torch.no_grad()
def action_error(
    policy: LoadedPolicy, held_out: TrajectoryStore, context_len: int, critic: TrainedCritic | None = None
) -> float:
    """Mean squared error of the mean action per dimension, over every held-out step once.

    Args:
        context_len: K; an episode's windows begin at its steps 0, K, 2K, ...
        critic: whose Q a policy takes in the place of returns; None for one that takes returns.
    """
    model, info = policy
    sampler = WindowSampler(
        held_out,
        context_len,
        WINDOWS,
        padding=getattr(model, "padding", "right"),
        return_scale=info.return_scale,
        reward_scale=info.reward_scale,
        reward_shift=info.reward_shift,
        state_mean=info.state_mean,
        state_std=info.state_std,
    )
    starts = [torch.arange(0, int(length), context_len) for length in held_out.episode_lengths]
    episodes = torch.repeat_interleave(torch.tensor([len(s) for s in starts]))
    total, count = 0.0, 0
    for rows in torch.arange(len(episodes)).split(WINDOWS):
        batch = sampler.windows(episodes[rows], torch.cat(starts)[rows])
        errors = (mean_actions(model, batch, critic) - batch.actions)[batch.mask].double().square()
        total, count = total + errors.sum().item(), count + errors.numel()
    return total / count


def mean_actions(model: torch.nn.Module, batch: Windows, critic: TrainedCritic | None) -> Tensor:
    """(B, K, A)"""
    states = model.normalizer.inverse(batch.states)
    if isinstance(model, StatePolicy):
        return model.act(states.flatten(0, 1)).unflatten(0, batch.mask.shape)
    if critic is not None:
        q = critic.q(states, batch.actions)[..., None] / model.config.return_scale
        batch = batch._replace(returns_to_go=q)
    return model(*batch).actions


def mean_action_error(rest: TrajectoryStore, held_out: TrajectoryStore) -> float:
    """The error of acting with the mean action of the other episodes, whatever the state."""
    errors = held_out.actions.astype(float) - rest.actions.mean(axis=0, dtype=float)
    return float(np.square(errors).mean())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="Minari id, folder, D4RL file or pickle")
    parser.add_argument("--out", type=Path, required=True, help="write the result here as JSON")
    parser.add_argument(
        "--runs", type=Path, help="keep the run folders here and continue those that are there"
    )
    parser.add_argument("--updates", type=int, default=2_000)
    parser.add_argument("--holdout", type=float, default=0.1, help="fraction of the episodes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="4 updates of the smallest networks, to try it")
    parser.add_argument("--only", nargs="+", choices=sorted(ALGORITHMS), default=sorted(ALGORITHMS))
    arguments = parser.parse_args(argv)
    needed = {YARDSTICK, *(CRITIC_OF[name] for name in arguments.only if name in CRITIC_OF)}
    if missing := sorted(needed.difference(arguments.only)):
        parser.error(
            f"--only: expected {' and '.join(missing)} too, with which the others are compared or from whose "
            f"critic they learn, got {' '.join(arguments.only)}"
        )
    store = load_dataset(arguments.dataset)
    with ExitStack() as held:
        runs = arguments.runs or Path(held.enter_context(tempfile.TemporaryDirectory()))
        result = measure(
            store,
            runs,
            updates=4 if arguments.quick else arguments.updates,
            holdout=arguments.holdout,
            seed=arguments.seed,
            shared=QUICK if arguments.quick else SHARED,
            only=arguments.only,
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(*not_beaten(result), f"written to {arguments.out}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
