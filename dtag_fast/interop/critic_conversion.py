"""`convert_critic`: a critic of another library as a run folder, as if it had been trained here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from dtag_fast.data import TrajectoryStore
from dtag_fast.interop.converted_run import facts_of, sizes_of_env, write_run
from dtag_fast.interop.loading import load_critic
from dtag_fast.models.foreign_critic import ForeignCritic
from dtag_fast.training.checkpoint import LoadedCritic, RunInfo, library_versions


class ConvertedCritic(NamedTuple):
    """A critic that was written to `run`."""

    run: Path
    critic: ForeignCritic
    info: RunInfo


def convert_critic(
    source: Any,
    run: str | os.PathLike,
    *,
    data: TrajectoryStore | None = None,
    env_id: str | None = None,
    state_eps: float | None = None,
    **options: Any,
) -> ConvertedCritic:
    """Write the run folder of a critic that another library trained; nothing is written where it is refused.

    Args:
        source, options: as of `interop.load_critic`; action_dim is that of `data` or the environment where it
            is left out.
        run: an empty or new folder.
        data: a dataset of ours that the critic was trained on: environment, bounds of the actions and entries
            of Dict observations are its own.
        env_id: the environment, where there is no `data` or it names another one.
        state_eps: states were standardised in training by the statistics of `data`, with this added to the
            deviation (CORL: 1e-3).
    Raises:
        as `load_critic`. FileExistsError: `run` is not empty.
        ValueError: `data` or the environment have other sizes than the critic.
    """
    if data is None and env_id is None:
        raise ValueError("data, env_id: expected one of them, got neither; they tell what is played")
    if state_eps is not None:
        if data is None:
            raise ValueError("state_eps: expected together with data, whose statistics it is for")
        if options.get("state_mean") is not None or options.get("state_std") is not None:
            raise ValueError("state_eps: expected alone, got state_mean or state_std too")
        options["state_mean"], options["state_std"] = data.state_statistics(eps=state_eps)
    if options.get("action_dim") is None:
        options["action_dim"] = sizes_of_env(env_id)[1] if data is None else data.action_dim
    critic = load_critic(source, **options)
    info = foreign_info(critic, data, env_id)
    write_run(Path(run), info, {"critic": critic}, critic.source)
    return ConvertedCritic(Path(run), critic, info)


def foreign_info(critic: ForeignCritic, data: TrajectoryStore | None, env_id: str | None) -> RunInfo:
    """What a checkpoint says of a critic of another library: how it was trained is not known.

    Raises:
        ValueError: data or environment are of other sizes.
    """
    sizes = (critic.state_dim, critic.action_dim)
    facts: dict[str, Any] = {"action_low": [], "action_high": []}
    facts |= facts_of(sizes, "critic", data, env_id)
    if critic.bounds is not None:
        facts |= dict(
            zip(("action_low", "action_high"), (b.astype(float).tolist() for b in critic.bounds), strict=True)
        )
    return RunInfo(
        algorithm=critic.source,
        kind="critic",
        step=0,
        seed=0,
        state_dim=critic.state_dim,
        action_dim=critic.action_dim,
        state_mean=critic.scale_states.shift.tolist(),
        state_std=critic.scale_states.scale.tolist(),
        best_return=0.0 if data is None else float(data.episode_returns.max()),
        versions=library_versions(),
        **facts,
    )


def loaded_beside(critic: ForeignCritic, policy: RunInfo) -> LoadedCritic:
    """The critic as if it had been saved beside a policy of the same environment.

    Raises:
        ValueError: it takes other states or actions than the policy.
    """
    ours, theirs = (policy.state_dim, policy.action_dim), (critic.state_dim, critic.action_dim)
    if ours != theirs:
        raise ValueError(f"critic: expected the policy's (state_dim, action_dim) = {ours}, got {theirs}")
    info = foreign_info(critic, None, None)
    known = {name: getattr(policy, name) for name in ("env_id", "observation_keys")}
    if critic.bounds is None:
        known |= {"action_low": policy.action_low, "action_high": policy.action_high}
    return LoadedCritic(critic, RunInfo(**{**vars(info), **known}))
