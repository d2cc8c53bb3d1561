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
from dtag_fast.data import DiscreteActions
from dtag_fast.models.behaviour import BehaviourModel
from dtag_fast.models.decoder import Precision
from dtag_fast.models.policies import StatePolicy
from dtag_fast.rollout.batches import ROW_MULTIPLE
from dtag_fast.rollout.candidates import Candidates, check_candidates
from dtag_fast.rollout.env_processes import EnvironmentProcesses, NotInChildren
from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.environments import Environments
from dtag_fast.rollout.placement import Placement, place, shares
from dtag_fast.rollout.policy import SequencePolicy, check_history_lengths
from dtag_fast.rollout.reactive import ReactivePolicy
from dtag_fast.rollout.refinement import Refinement
from dtag_fast.rollout.results import EpisodesFailed, EvaluationResult, WallTime
from dtag_fast.rollout.runner import Played, Split, Task, Worker, play_all
from dtag_fast.rollout.setting_results import failed_episodes, setting_results
from dtag_fast.rollout.settings import AGSetting, expect_whole
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy, RunInfo

# of an evaluation -> of `refine`
REFINE_PRECISION: dict[Precision | None, str | None] = {None: None, "fp32": "highest", "bf16": "medium"}


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
        policy: from `load_policy`. critic: from `load_critic`; needed by settings with steps > 0
            and by candidates.
        settings: Action Gradient settings, see `grid`.
        target_returns: to ask of a return-conditioned policy, in the environment's units; None takes
            those of its checkpoint. Reinformer predicts its own, and a policy of the present state has
            none: they take none.
        episodes: per setting and target, >= 1.
        seed: of the first episode.
        env_id: environment to play in; None for the one of the training data.
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
        ValueError: a bad argument, a missing environment id, critic or target return, a critic of other
        dimensions, an environment of other spaces, a policy that gives NaN, or Action Gradient for a policy
        of discrete actions.
        EpisodesFailed: no episode at all could be finished.
    """
    info, device = policy.info, next(policy.model.parameters()).device
    settings, targets = list(settings), targets_of(policy, target_returns)
    env_id = env_id or info.env_id
    _check_numbers(episodes, max_envs, workers, env_processes, env_timeout)
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
    kind = EnvironmentKind.of(info, env_id)
    asked = {"workers": workers, "slots": at_once, "episodes": len(tasks), "timeout": env_timeout}
    placement = place(env_processes, kind, **asked)
    if 0 < placement.processes < workers:  # each worker has environments of its own
        if chosen is not None:
            raise ValueError(
                f"env_processes: expected 0 or at least one for each of the {workers} workers, got "
                f"{env_processes}"
            )
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
        placed, placement = _environments(stack, kind, slots, placement, env_timeout, insist)
        crew = []
        for environments, n in zip(placed, slots, strict=True):
            actor = make_actor(
                policy, n, tasks[0].target_return, on_cpu, history_lengths, candidates, critic, precision
            )
            crew.append(Worker(actor, environments, refinement))
        if refinement is not None:
            refinement.prepare(info.state_dim, info.action_dim)
        precisions = _precisions(crew[0], info)
        began = time.perf_counter()
        played, split = play_all(crew, tasks, progress)
        seconds = time.perf_counter() - began
    steps = sum(p.length for p in played if isinstance(p, Played))
    results = setting_results(
        settings, targets, episodes, tasks, played, _task(info, env_id), with_critic=refinement is not None
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
        critic=None if critic is None else _about(critic.info),
        versions=_versions(),
    )
    if len(result.failures) == len(tasks):
        raise EpisodesFailed(result)
    return result


def targets_of(policy: LoadedPolicy, wanted: Sequence[float] | None) -> list[float | None]:
    """The returns to ask of a policy, those of its checkpoint by default; [None] where it takes none."""
    model, name = policy.model, type(policy.model).__name__
    if not model.takes_target_return:
        if wanted:
            what = "acts on none" if isinstance(model, StatePolicy) else "predicts the returns it acts on"
            raise ValueError(f"target_returns: {name} {what}; leave them out")
        return [None]
    targets = list(policy.info.target_returns if wanted is None else wanted)
    if not targets:
        raise ValueError(f"target_returns: {name} needs at least one return to aim for, got none")
    return [float(target) for target in targets]


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


def _environments(
    stack: ExitStack,
    kind: EnvironmentKind,
    slots: Sequence[int],
    placement: Placement,
    timeout: float | None,
    insist: bool,
) -> tuple[list[Environments | EnvironmentProcesses], Placement]:
    """Environments of each worker, closed with the stack, and where they came to be: in this process after
    all where nobody insists on children and these cannot have them."""
    if placement.processes:
        numbers = zip(slots, shares(placement.processes, len(slots)), strict=True)
        try:
            return [stack.enter_context(EnvironmentProcesses(kind, *n, timeout)) for n in numbers], placement
        except NotInChildren as error:
            if insist:
                raise
            placement = Placement(0, str(error))
    return [stack.enter_context(kind.build(n)) for n in slots], placement


def _check_numbers(episodes, max_envs, workers, env_processes, env_timeout) -> None:
    numbers = {"episodes": episodes, "max_envs": max_envs, "workers": 1 if workers is None else workers}
    for name, value in numbers.items():
        expect_whole(name, value, 1)
    if (
        isinstance(env_processes, bool)
        or not isinstance(env_processes, int | None)
        or (env_processes or 0) < 0
    ):
        raise ValueError(
            f"env_processes: expected a whole number of at least 0, or None, got {env_processes!r}"
        )
    check_timeout(env_timeout)


def check_timeout(env_timeout: float | None) -> None:
    """Refuse an `env_timeout` that is neither a number of seconds nor None."""
    seconds = isinstance(env_timeout, int | float) and not isinstance(env_timeout, bool)
    if env_timeout is not None and not (seconds and 0 < env_timeout < math.inf):
        raise ValueError(f"env_timeout: expected seconds above 0, or None, got {env_timeout!r}")


def check_together(
    policy: LoadedPolicy,
    critic: LoadedCritic | None,
    settings: Sequence[AGSetting],
    env_id: str | None,
    history_lengths: Sequence[int] | None = None,
    candidates: Candidates | None = None,
    behaviour: BehaviourModel | None = None,
) -> None:
    """Refuse a policy, critic, environment and ways to act that do not go together, before anything is
    played; arguments and errors are those of `evaluate`."""
    if not settings:
        raise ValueError("settings: expected at least one AGSetting, got none")
    if env_id is None:
        raise ValueError("env_id: the checkpoint names no environment because its dataset does not; give one")
    refined = [setting for setting in settings if not setting.is_plain]
    if policy.info.discrete_actions is not None and (refined or critic is not None):
        raise ValueError(
            "critic: Action Gradient climbs a critic over continuous actions, this policy's are "
            f"{DiscreteActions.of(vars(policy.info))}; evaluate it without critic and steps"
        )
    if refined and critic is None:
        raise ValueError(f"critic: {refined[0].label} needs a critic, got None; give a run that trained one")
    regularised = [setting for setting in settings if setting.behaviour is not None]
    if regularised and behaviour is None:
        raise ValueError(
            f"behaviour: {regularised[0].label} needs the critic's BehaviourModel, got None; "
            "behaviour_of(critic's run) makes it"
        )
    if behaviour is not None:
        ours, theirs = (policy.info.state_dim, policy.info.action_dim), behaviour.sizes
        if ours != theirs:
            raise ValueError(f"behaviour: expected one for (state_dim, action_dim) = {ours}, got {theirs}")
    if critic is not None:
        ours, theirs = ((i.state_dim, i.action_dim, i.observation_keys) for i in (policy.info, critic.info))
        if ours != theirs:
            raise ValueError(
                "critic: expected the policy's (state_dim, action_dim, observation_keys) = "
                f"{ours}, got {theirs}; train both on the same dataset"
            )
    if history_lengths is not None:
        check_history_lengths(history_lengths, policy.model)
    if candidates is not None:
        info = policy.info
        check_candidates(candidates, policy.model, critic, info.reward_scale, info.reward_shift)


def check_precision(precision: Precision | None) -> None:
    """Refuse a precision that `evaluate` does not know."""
    if precision not in REFINE_PRECISION:
        raise ValueError(f"precision: expected fp32, bf16 or None, got {precision!r}")


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


def _task(info: RunInfo, env_id: str):
    """What reference scores are looked up by: the dataset's task, or another environment by its name
    alone."""
    if env_id != info.env_id:
        return env_id
    names = ("env_id", "dataset_id", "env_spec", "ref_min_score", "ref_max_score", "ref_source")
    return {name: getattr(info, name) for name in names}


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
