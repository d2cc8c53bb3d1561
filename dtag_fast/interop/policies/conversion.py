"""`convert_policy`: a policy of another code as a run folder, which is evaluated like one trained here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtag_fast.data import TrajectoryStore
from dtag_fast.interop.converted_run import check_sizes, facts_of, write_run
from dtag_fast.interop.policies.loading import ForeignPolicy, read_policy
from dtag_fast.models.foreign_critic import Numbers
from dtag_fast.training.checkpoint import RunInfo, library_versions


class Converted(NamedTuple):
    """A policy that was written to `run`, and what was assumed of it."""

    run: Path
    policy: ForeignPolicy
    info: RunInfo
    notes: list[str]  # a sentence each


def convert_policy(
    source: Any,
    run: str | os.PathLike,
    *,
    return_scale: float,
    data: TrajectoryStore | None = None,
    env_id: str | None = None,
    state_mean: Numbers | float | None = None,
    state_std: Numbers | float | None = None,
    target_returns: Sequence[float] = (),
    **options: Any,
) -> Converted:
    """Write the run folder of a policy that another code trained; nothing is written where it is refused.

    Args:
        source, options: as for `read_policy`.
        run: an empty or new folder.
        return_scale: what returns-to-go were divided by in training.
        data: a dataset of ours, that the policy was trained on: states are standardised by its statistics
            unless others are given or the source holds some; environment, bounds and references are its own.
        env_id: the environment, where there is no `data` or it names another one.
        state_mean, state_std: as for `read_policy`; 0 and 1 for a policy of raw states.
        target_returns: to ask for in evaluation; empty: the best return in the data.
    Raises:
        as `read_policy`. FileExistsError: `run` is not empty.
        ValueError: nothing tells what states were standardised by, or environment or data have other sizes.
    """
    if not return_scale > 0:
        raise ValueError(f"return_scale: expected a positive number, got {return_scale}")
    policy = read_policy(
        source, return_scale=return_scale, state_mean=state_mean, state_std=state_std, **options
    )
    model, notes = policy.model, list(policy.notes)
    if data is not None:
        theirs = (data.state_dim, data.action_dim)
        check_sizes(_sizes(policy), "policy", "data", theirs, data.discrete_actions is None)
    if not policy.scales_states:
        if data is None:
            raise ValueError(
                "state_mean, state_std: the source does not hold what states were standardised by; give both "
                "(model cards of Hugging Face print them), or the dataset it was trained on; 0 and 1 for raw "
                "states"
            )
        mean, std = data.state_statistics()
        model = _standardised(model, mean, std)
        notes.append("states are standardised by the statistics of the dataset")
    facts = _facts(policy, data, env_id)
    targets = [float(target) for target in target_returns]
    if model.takes_target_return and not targets and data is not None:
        targets = [float(data.episode_returns.max())]
    if model.takes_target_return and not targets:
        notes.append("no target returns are known: `dtag evaluate` needs --target-returns")
    best = max(targets, default=0.0) if data is None else float(data.episode_returns.max())
    config = dataclasses.asdict(model.config) | {"converted_from": policy.source}
    if (
        policy.algorithm == "odt"
    ):  # acts with fewer steps than it is trained with, where nothing says otherwise
        config["eval_context_len"] = model.config.context_len
    sizes = {name: config[name] for name in ("state_dim", "action_dim", "context_len", "return_scale")}
    info = RunInfo(
        algorithm=policy.algorithm,
        kind="policy",
        step=0,
        seed=0,
        state_mean=model.normalizer.mean.tolist(),
        state_std=model.normalizer.std.tolist(),
        best_return=best,
        target_returns=targets if model.takes_target_return else [],
        config=config,
        versions=library_versions(),
        **sizes,
        **facts,
    )
    write_run(Path(run), info, {"model": model}, policy.source)
    return Converted(Path(run), policy._replace(model=model), info, notes)


def _facts(policy: ForeignPolicy, data: TrajectoryStore | None, env_id: str | None) -> dict[str, Any]:
    """Fields of RunInfo about environment, bounds and references.

    Bounds are those that Action Gradient keeps to: of the data or the environment. The network's own, which
    it was trained with, stay in it.
    """
    centre, half = (getattr(policy.model.action_bounds, name).numpy() for name in ("centre", "half_range"))
    own = {"action_low": (centre - half).tolist(), "action_high": (centre + half).tolist()}
    return own | facts_of(_sizes(policy), "policy", data, env_id)


def _sizes(policy: ForeignPolicy) -> tuple[int, int]:
    return policy.model.config.state_dim, policy.model.config.action_dim


def _standardised(model: Any, mean: np.ndarray, std: np.ndarray) -> Any:
    """The model with these statistics in place of none."""
    model.normalizer.mean.copy_(model.normalizer.mean.new_tensor(mean))
    model.normalizer.std.copy_(model.normalizer.std.new_tensor(std))
    return model
