"""The rule by which environments are stepped in this process or in others."""

import math

import faulty_env
import pytest

from dtag_fast.rollout import evaluate, placement
from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.placement import judge, place, shares

HOPPER = EnvironmentKind("Hopper-v5", None, None, 11, 3, None, None)


@pytest.fixture
def slow(make_policy):
    """A policy for an environment whose step waits 5 ms, named as in the argument."""

    def build(env_id):
        spec = {"id": env_id, "kwargs": {"faults": (), "waits": 0.005}, "max_episode_steps": 12}
        return make_policy("bc", state_dim=4, action_dim=1, env_id=env_id, env_spec=spec)

    return build


@pytest.mark.parametrize(
    ("cores", "workers", "slots", "reason"),
    [
        (2, 2, 64, "2 cores, 2 of them for the policy"),
        (2, 1, 64, "2 cores, 1 of them for the policy"),  # a single child would step them one by one too
        (16, 16, 64, "16 cores, 16 of them for the policy"),
        (16, 9, 64, "16 cores, 9 of them for the policy"),  # less than one process for each thread
        (16, 1, 1, "one environment at a time"),
    ],
)
def test_without_free_cores_nothing_is_timed(cores, workers, slots, reason):
    unknown = EnvironmentKind("Never-built-v0", None, None, 1, 1, None, None)
    found = place(None, unknown, workers=workers, slots=slots, episodes=100, cores=cores)
    assert found == (0, reason)


@pytest.mark.parametrize(("cores", "workers", "processes"), [(2, 2, 2), (2, 1, 1), (16, 2, 14), (16, 16, 16)])
def test_a_limit_takes_processes_and_times_nothing(cores, workers, processes):
    """A step that is timed here might be the one that hangs."""
    unknown = EnvironmentKind("Never-built-v0", None, None, 1, 1, None, None)
    found = place(None, unknown, workers=workers, slots=64, episodes=100, timeout=5.0, cores=cores)
    assert found == (processes, "env_timeout needs them")


def test_the_default_here_is_this_process_where_the_policy_takes_all_cores(make_policy):
    cores = placement.available_cores()
    result = evaluate(make_policy("bc"), episodes=8 * cores, workers=cores)
    assert result.wall_time.env_processes == 0
    assert result.wall_time.env_processes_reason == f"{cores} cores, {cores} of them for the policy"


@pytest.mark.parametrize(
    ("seconds", "episodes", "processes", "why"),
    [
        (
            1e-4,
            1000,
            13,
            "cores are free for 15 processes",
        ),  # 5 environments each, as with 14 and 15, and fewer bytes
        (1e-3, 100, 13, "cores are free for 15 processes"),
        (1e-6, 10**6, 0, "would not gain enough"),
        (1e-4, 10, 0, "too few to pay for the start"),
        (1e-4, math.inf, 13, "cores are free for 15 processes"),
        (1e-6, math.inf, 0, "would not gain enough"),
    ],
)
def test_dear_steps_and_many_of_them_go_to_processes(seconds, episodes, processes, why):
    found = judge(seconds, 1000, 15, workers=1, slots=64, episodes=episodes)
    assert found.processes == processes and why in found.reason
    assert f"a step takes {1e6 * seconds:.0f} us" in found.reason


def test_a_step_is_timed():
    seconds, limit = HOPPER.time_step()
    assert 1e-6 < seconds < 0.1 and limit == 1000


def test_the_rule_chooses_processes_and_falls_back_where_they_cannot_have_them(slow, monkeypatch):
    monkeypatch.setattr(placement, "available_cores", lambda: 5)
    options = {"episodes": 60, "max_envs": 8, "workers": 1}
    chosen = evaluate(slow(faulty_env.ENV_ID), **options)
    assert chosen.wall_time.env_processes == 4
    assert "cores are free for 4 processes" in chosen.wall_time.env_processes_reason
    fallen = evaluate(slow(faulty_env.ID), **options)  # known in this process, where the module was imported
    assert fallen.wall_time.env_processes == 0
    assert "is registered in this process alone" in fallen.wall_time.env_processes_reason
    assert chosen.settings[0].returns == fallen.settings[0].returns
    assert chosen.wall_time.seconds < fallen.wall_time.seconds


@pytest.mark.filterwarnings("ignore:environment. closing it raised OSError:RuntimeWarning")
def test_an_environment_that_fails_while_it_is_timed_is_left_to_the_evaluation():
    faults = tuple((0, step, "raise") for step in range(12))
    spec = {"id": faulty_env.ENV_ID, "kwargs": {"faults": faults}}
    kind = EnvironmentKind(faulty_env.ENV_ID, spec, None, 4, 1, None, None)
    found = place(None, kind, workers=1, slots=8, episodes=8, cores=16)
    assert found.processes == 0 and "failed while its step was timed: BrokenError" in found.reason


def test_shares_differ_by_one_at_most():
    assert shares(7, 3) == [3, 2, 2] and shares(4, 4) == [1] * 4
