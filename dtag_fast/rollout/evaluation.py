"""Evaluation: every Action Gradient setting, target return and episode of a checkpoint in one batch."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version

import gymnasium
import numpy as np
import torch

from dtag_fast import __version__
from dtag_fast.data import why_no_score
from dtag_fast.models.behaviour import BehaviourModel
from dtag_fast.models.decoder import Precision
from dtag_fast.models.gated_critic import GatedCritic
from dtag_fast.models.policies import StatePolicy
from dtag_fast.rollout.arguments import (
    REFINE_PRECISION,
    check_numbers,
    check_precision,
    check_together,
    expect_loaded,
    listed,
    targets_of,
)
from dtag_fast.rollout.batches import ROW_MULTIPLE
from dtag_fast.rollout.candidates import Candidates
from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.placement import open_environments, place, refuse_few, shares
from dtag_fast.rollout.policy import SequencePolicy
from dtag_fast.rollout.reactive import ReactivePolicy
from dtag_fast.rollout.refinement import Refinement
from dtag_fast.rollout.results import EpisodesFailed, EvaluationResult, WallTime
from dtag_fast.rollout.runner import Played, Split, Task, Worker, play_all
from dtag_fast.rollout.scored_task import scored_task
from dtag_fast.rollout.setting_results import failed_episodes, setting_results
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.rollout.starts import Starts
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy, RunInfo


def evaluate(
    policy: LoadedPolicy,
    *,
    critic: LoadedCritic | None = None,
    settings: Sequence[AGSetting] = (AGSetting(),),
    target_returns: Sequence[float] | None = None,
    episodes: int = 10,
    seed: int = 0,
    env_id: str | None = None,
    max_envs: int = 64,
    workers: int | None = None,
    env_processes: int | None = None,
    env_timeout: float | None = None,
    history_lengths: Sequence[int] | None = None,
    candidates: Candidates | None = None,
    precision: Precision | None = None,
    behaviour: BehaviourModel | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Play `episodes` episodes under every setting and target return, many environments at a time.

    Episode e of every setting starts with `reset(seed=seed + e)`, so that settings are compared on the
    same starts. On a CPU an episode's bits depend on its own seed, setting and target only, and not on
    what else is evaluated, on max_envs or on workers, as far as matrix products round rows alike
    (docs/evaluation.md).

    An episode whose environment raises, or gives an observation or a reward that is not finite, is one of
    the result's `failures` and part of no statistics; all others are played to their end.

    Args:
        policy: from `load_policy`. critic: from `load_critic`; needed by settings with steps > 0 or
            several starts, and by candidates.
        settings: Action Gradient settings, see `grid`.
        target_returns: to ask of a return-conditioned policy, in the environment's units; None takes
            those of its checkpoint. Reinformer predicts its own, and a policy of the present state has
            none: they take none.
        episodes: per setting and target, >= 1.
        seed: of the first episode.
        env_id: environment to play in, see `data.played_env`; None for the one of the training data.
        max_envs: environments alive at once, over all workers.
        workers: threads that each play a share of the episodes; None for torch.get_num_threads() on a
            CPU, one on a GPU.
        env_processes: child processes that step the environments, over all workers; 0 for this process.
            None decides by the rule of `rollout.placement`. The bits of a CPU's episodes are the same.
        env_timeout: seconds that a reset or step of one environment may take, > 0; then its episode is a
            failure and its worker process is replaced. Only worker processes can be ended, so there are some.
            None: any time.
        history_lengths: elastic history, see `SequencePolicy`; None for the policy's own context_len.
        candidates: act with one of several candidates, chosen by the critic, which Action Gradient then
            refines; see `rollout.candidates`. An episode's draws depend on its seed alone. None: with the
            policy's action.
        behaviour: of the critic and its data, from `dtag_fast.training.behaviour_of`; needed by settings
            with a `Behaviour`.
        precision: "fp32"; or, on a CPU, "bf16": bf16 weights in the policy's blocks
            (`ops.decode.CompiledSteps`) and in the critic's hidden layers (`refine` with precision="medium"),
            sums in float32; an episode's bits depend on as little as in float32. None: the compiled policy in
            float32, all else as torch.get_float32_matmul_precision() says.
        progress: called as progress(episodes done, episodes in all).

    Raises:
        TypeError: a policy, critic or settings of another kind.
        ValueError: a bad argument, a missing environment id, critic or target return, a critic of other
        dimensions, an environment of other spaces, a policy that gives NaN, Action Gradient for a policy
        of discrete actions, or several starts for one without a distribution or beside candidates.
        EpisodesFailed: no episode at all could be finished.
    """
    expect_loaded(policy, critic)
    info, device = policy.info, next(policy.model.parameters()).device
    settings, targets = listed(settings), targets_of(policy, target_returns)
    env_id = env_id or info.env_id
    check_numbers(episodes, seed, max_envs, workers, env_processes, env_timeout)
    check_together(policy, critic, settings, env_id, history_lengths, candidates, behaviour)
    check_precision(precision)
    tasks = [
        Task(number, target, seed + episode)
        for number in range(len(settings))
        for target in targets
        for episode in range(episodes)
    ]
    on_cpu = device.type == "cpu"
    at_once, chosen = min(max_envs, len(tasks)), workers
    if workers is None:
        workers = torch.get_num_threads() if on_cpu else 1
    workers = min(workers, max_envs, math.ceil(len(tasks) / ROW_MULTIPLE))
    kind, scored = EnvironmentKind.of(info, env_id), scored_task(info, env_id)
    asked = {"workers": workers, "slots": at_once, "episodes": len(tasks), "timeout": env_timeout}
    placement = place(env_processes, kind, **asked)
    if 0 < placement.processes < workers:  # each worker has environments of its own
        if chosen is not None:
            refuse_few(env_processes, workers)
        workers = placement.processes
    slots = shares(at_once, workers)
    with ExitStack() as stack:
        if precision == "fp32":  # of what PyTorch's operators compute
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        refinement = _refinement(
            policy, critic, settings, device, on_cpu, REFINE_PRECISION[precision], behaviour
        )
        insist = env_processes is not None or env_timeout is not None
        placed, placement = open_environments(stack, kind, slots, placement, env_timeout, insist)
        crew = []
        for environments, n in zip(placed, slots, strict=True):
            actor = make_actor(
                policy, n, tasks[0].target_return, on_cpu, history_lengths, candidates, critic, precision
            )
            starts = None
            if any(setting.starts > 1 for setting in settings):
                starts = Starts(actor, info.action_dim, settings)
            crew.append(Worker(actor, environments, refinement, starts=starts))
        if refinement is not None:
            refinement.prepare(info.state_dim, info.action_dim)
        precisions = _precisions(crew[0], info)
        began = time.perf_counter()
        played, split = play_all(crew, tasks, progress)
        seconds = time.perf_counter() - began
    steps = sum(p.length for p in played if isinstance(p, Played))
    results = setting_results(
        settings, targets, episodes, tasks, played, scored, with_critic=refinement is not None
    )
    result = EvaluationResult(
        env_id=env_id,
        seed=seed,
        episodes=episodes,
        settings=results,
        failures=failed_episodes(tasks, played, [r.label for r in results for _ in range(episodes)]),
        steps=steps,
        steps_per_second=steps / seconds,
        precision=precisions,
        wall_time=WallTime(seconds, workers, _shares(split), crew[0].not_captured, *placement),
        policy=_about(info)
        | {
            "history_lengths": history_lengths and list(history_lengths),
            "candidates": candidates and dataclasses.asdict(candidates),
        },
        critic=None if critic is None else _about_critic(critic),
        versions=_versions(),
        not_normalized=why_no_score(scored) or None,
    )
    if len(result.failures) == len(tasks):
        raise EpisodesFailed(result)
    return result


def make_actor(
    policy: LoadedPolicy,
    num_envs: int,
    target_return: float | None,
    batch_invariant: bool,
    history_lengths: Sequence[int] | None,
    candidates: Candidates | None,
    critic: LoadedCritic | None,
    precision: Precision | None = None,
) -> SequencePolicy | ReactivePolicy:
    """What acts for `num_envs` rollouts, as `evaluate` sets it up."""
    if isinstance(policy.model, StatePolicy):
        if precision == "bf16":
            raise ValueError(
                f"precision: bf16 is for sequence policies, {type(policy.model).__name__} acts on the "
                "present state alone; leave it out"
            )
        return ReactivePolicy(policy.model, num_envs, batch_invariant)
    return SequencePolicy(
        policy.model,
        num_envs,
        target_return,
        reward_scale=policy.info.reward_scale,
        reward_shift=policy.info.reward_shift,
        batch_invariant=batch_invariant,
        history_lengths=history_lengths,
        candidates=candidates,
        critic=critic,
        precision=precision or "fp32",
    )


def _refinement(policy, critic, settings, device, batch_invariant, precision, behaviour) -> Refinement | None:
    if critic is None:
        return None
    network, bounds = critic.critic.to(device), policy.info.action_bounds
    return Refinement(network, bounds, settings, device, batch_invariant, precision, behaviour)


def _precisions(worker: Worker, info: RunInfo) -> dict[str, str | None]:
    """What policy and Action Gradient are computed in."""
    refinement, refined = worker.refinement, None
    if refinement is not None:
        refined = refinement.update(info.state_dim, info.action_dim).choice.precision
    return {"policy": worker.policy.precision, "refine": refined}


def _shares(split: Split) -> dict[str, float]:
    total = split.policy + split.refine + split.environment + split.other
    return {name: getattr(split, name) / total for name in ("policy", "refine", "environment", "other")}


def _about(info: RunInfo) -> dict:
    names = (
        "algorithm",
        "step",
        "seed",
        "dataset_id",
        "context_len",
        "return_scale",
        "reward_scale",
        "discount",
    )
    return {name: getattr(info, name) for name in names}


def _about_critic(critic: LoadedCritic) -> dict:
    """With the limit of its gate, where it has one."""
    gate = {"gate_limit": critic.critic.limit} if isinstance(critic.critic, GatedCritic) else {}
    return _about(critic.info) | gate


def _versions() -> dict[str, str]:
    found = {
        "dtag_fast": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
    }
    for package in ("mujoco", "gymnasium-robotics"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # its environments cannot have been used
            continue
    return found
