"""What `evaluate` and `measure_latency` are given, looked at before anything is played."""

import math
from collections.abc import Sequence

import numpy as np

from dtag_fast.data import DiscreteActions
from dtag_fast.models.behaviour import BehaviourModel
from dtag_fast.models.decoder import Precision
from dtag_fast.models.policies import StatePolicy
from dtag_fast.rollout.candidates import Candidates, check_candidates
from dtag_fast.rollout.policy import check_history_lengths
from dtag_fast.rollout.settings import AGSetting, expect_whole
from dtag_fast.rollout.starts import check_starts
from dtag_fast.training.checkpoint import LoadedCritic, LoadedPolicy

# of an evaluation -> of `refine`
REFINE_PRECISION: dict[Precision | None, str | None] = {None: None, "fp32": "highest", "bf16": "medium"}


def expect_loaded(policy: LoadedPolicy, critic: LoadedCritic | None) -> None:
    """Refuse what only stands for a policy or a critic, such as its folder or the network alone."""
    for name, given, kind in (("policy", policy, LoadedPolicy), ("critic", critic, LoadedCritic)):
        if not isinstance(given, kind) and not (given is None and kind is LoadedCritic):
            raise TypeError(
                f"{name}: expected a {kind.__name__}, which load_{name}(run folder) gives, got "
                f"{type(given).__name__}"
            )


def listed(settings: Sequence[AGSetting]) -> list[AGSetting]:
    """The settings as a list of their own."""
    if isinstance(settings, Sequence) and all(isinstance(setting, AGSetting) for setting in settings):
        return list(settings)
    raise TypeError(f"settings: expected a list of AGSetting, got {settings!r}")


def targets_of(policy: LoadedPolicy, wanted: Sequence[float] | None) -> list[float | None]:
    """The returns to ask of a policy, those of its checkpoint by default; [None] where it takes none."""
    model, name = policy.model, type(policy.model).__name__
    if not model.takes_target_return:
        if wanted:
            what = "acts on none" if isinstance(model, StatePolicy) else "predicts the returns it acts on"
            raise ValueError(f"target_returns: {name} {what}; leave them out")
        return [None]
    if not isinstance(wanted, Sequence | np.ndarray | None) or isinstance(wanted, str):
        raise TypeError(f"target_returns: expected a list of numbers or None, got {wanted!r}")
    targets = list(policy.info.target_returns if wanted is None else wanted)
    if not targets:
        raise ValueError(f"target_returns: {name} needs at least one return to aim for, got none")
    return [float(target) for target in targets]


def check_numbers(
    episodes: int,
    seed: int,
    max_envs: int,
    workers: int | None,
    env_processes: int | None,
    env_timeout: float | None,
) -> None:
    """Refuse numbers that `evaluate` does not take."""
    expect_whole("seed", seed, 0)
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
    check_starts(settings, policy.model, candidates)


def check_precision(precision: Precision | None) -> None:
    """Refuse a precision that `evaluate` does not know."""
    if precision not in REFINE_PRECISION:
        raise ValueError(f"precision: expected fp32, bf16 or None, got {precision!r}")
