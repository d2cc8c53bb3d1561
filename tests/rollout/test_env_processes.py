"""Environments in worker processes: the bits of this process; faults, deaths and ends that lose nothing."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import faulty_env
import gymnasium
import numpy as np
import pytest
from process_tree import children_of, hear_interrupts, parent_of, wait_until

from dtag_fast.data import DiscreteActions
from dtag_fast.rollout import evaluate, grid
from dtag_fast.rollout.env_processes import EnvironmentProcesses, NotInChildren
from dtag_fast.rollout.env_worker import END_WITHIN
from dtag_fast.rollout.environment_kind import EnvironmentKind

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:environment. closing it raised OSError:RuntimeWarning")


def faulty_kind(*faults, limit=12, **waits):
    spec = {"id": faulty_env.ENV_ID, "kwargs": {"faults": faults, **waits}, "max_episode_steps": limit}
    return EnvironmentKind(faulty_env.ENV_ID, spec, None, 4, 1, None, None)


@pytest.fixture
def faulty(make_policy):
    def build(*faults, kind="reinformer"):
        spec = faulty_kind(*faults).env_spec
        return make_policy(kind, state_dim=4, action_dim=1, env_id=faulty_env.ENV_ID, env_spec=spec)

    return build


def test_hopper_has_the_bits_of_this_process():
    kind = EnvironmentKind("Hopper-v5", None, None, 11, 3, None, None)
    rng = np.random.default_rng(0)
    with kind.build(5) as here, EnvironmentProcesses(kind, 5, 2) as there:
        for step in range(60):
            over = here.terminated | here.truncated
            begin = [row for row in range(5) if step == 0 or over[row]]
            for environments in (here, there):
                environments.reset(begin, [10 * step + row for row in begin])
            rows = np.flatnonzero(rng.random(5) < 0.8)
            actions = rng.uniform(-1, 1, (len(rows), 3)).astype("f4")
            here.step(rows, actions)
            there.step(rows, actions)
            for name in ("observations", "rewards", "terminated", "truncated"):
                assert (getattr(here, name) == getattr(there, name)).all()
        assert here.terminated.any() or step > 20


def test_discrete_actions_and_finished_slots():
    kind = EnvironmentKind("CartPole-v1", None, None, 4, 2, None, DiscreteActions(2))
    with kind.build(1) as here, EnvironmentProcesses(kind, 1, 1) as there:
        for environments in (here, there):
            environments.reset([0], [3])
            while not environments.terminated[0]:
                environments.step(np.array([0]), np.array([[0.0, 1.0]], "f4"))
            with pytest.raises(RuntimeError, match="rows: the episode of slot 0 is over; reset it"):
                environments.step(np.array([0]), np.array([[0.0, 1.0]], "f4"))
        assert (here.observations == there.observations).all()


@pytest.mark.parametrize(("max_envs", "processes", "workers"), [(4, 3, 1), (8, 2, 2)])
def test_an_evaluation_in_processes_is_that_in_this_one(
    make_policy, make_critic, max_envs, processes, workers
):
    sizes = {"state_dim": 11, "action_dim": 3}
    policy, critic = make_policy("dt", env_id="Hopper-v5", **sizes), make_critic(**sizes)
    options = {"critic": critic, "settings": grid((0, 3), (0.1,)), "episodes": 8, "max_envs": max_envs}
    options["workers"] = workers
    here = evaluate(policy, env_processes=0, **options)
    there = evaluate(policy, env_processes=processes, **options)
    assert (here.wall_time.env_processes, there.wall_time.env_processes) == (0, processes)
    assert there.wall_time.env_processes_reason == "asked for"
    for a, b in zip(here.settings, there.settings, strict=True):
        assert (a.returns, a.lengths, a.mean_q_gain) == (b.returns, b.lengths, b.mean_q_gain)
    assert children_of(os.getpid()) == []


def test_faults_are_reported_as_in_this_process(faulty):
    faults = ((1, 3, "raise"), (4, 0, "raise"), (5, 2, "nan"), (6, 1, "reward"))
    here, there = (evaluate(faulty(*faults), episodes=9, max_envs=4, env_processes=n) for n in (0, 2))
    assert here.settings[0].returns == there.settings[0].returns
    for a, b in zip(here.failures, there.failures, strict=True):
        assert (a.seed, a.step, a.error, a.message) == (b.seed, b.step, b.error, b.message)
    assert [f.seed for f in there.failures] == [1, 4, 5, 6]
    assert "in _maybe_fail" in there.failures[0].traceback


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("exit", "the environment's worker process ended with exit code 7"),
        ("kill", "the environment's worker process was killed by signal 9 (SIGKILL)"),
    ],
)
@pytest.mark.parametrize("step", [0, 3])
def test_a_process_that_dies_takes_its_running_episodes_only(faulty, kind, sentence, step):
    """Two processes of two slots: seeds 0, 1 and 2, 3 begin in them."""
    whole = evaluate(faulty(), episodes=8, max_envs=4, env_processes=0, workers=1).settings[0]
    began = time.monotonic()
    result = evaluate(faulty((2, step, kind)), episodes=8, max_envs=4, env_processes=2, workers=1)
    assert time.monotonic() - began < 30
    lost = [f.seed for f in result.failures]
    # When seed 2 is reset, seed 3 has not begun: it plays in the new process.
    assert lost == ([2] if step == 0 else [2, 3])
    assert {f.error for f in result.failures} == {"ProcessDied"}
    assert all(f.message == sentence and f.step == step for f in result.failures)
    (setting,) = result.settings
    assert setting.seeds == [seed for seed in range(8) if seed not in lost]
    assert setting.returns == [whole.returns[seed] for seed in setting.seeds]


def test_episodes_beside_one_that_dies_in_its_reset_are_lost_too():
    kind = faulty_kind((9, 0, "exit"))
    with EnvironmentProcesses(kind, 2, 1) as environments:
        environments.reset([0], [1])
        environments.reset([1], [9])
        assert list(environments.faults) == [1]
        environments.reset([1], [2])  # in a new process, which knows nothing of slot 0
        environments.step(np.array([0, 1]), np.zeros((2, 1), "f4"))
        assert list(environments.faults) == [0] and "exit code 7" in environments.faults[0].message
        environments.reset([0], [3])
        environments.step(np.array([0, 1]), np.zeros((2, 1), "f4"))
        assert not environments.faults and environments.rewards.tolist() == [1.0, 1.0]


def test_a_process_killed_from_outside_is_replaced():
    with EnvironmentProcesses(faulty_kind(), 2, 2) as environments:
        for row in (0, 1):
            environments.reset([row], [row])
        victim = children_of(os.getpid())[0]
        os.kill(victim, signal.SIGKILL)
        environments.step(np.array([0, 1]), np.zeros((2, 1), "f4"))
        ((row, fault),) = environments.faults.items()
        assert fault.message.endswith("killed by signal 9 (SIGKILL)")
        environments.reset([row], [5])
        assert not environments.faults and len(children_of(os.getpid())) == 2
    assert children_of(os.getpid()) == []


def test_children_start_without_torch():
    """Its import takes ten times as long as all that they need."""
    code = "import sys, dtag_fast.rollout.env_child; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_resets_wait_side_by_side():
    kind = faulty_kind(reset_waits=0.5)
    with EnvironmentProcesses(kind, 4, 4) as environments, kind.build(4) as here:
        began = time.monotonic()
        environments.reset(range(4), range(4))
        assert 0.5 <= time.monotonic() - began < 1.5
        here.reset(range(4), range(4))
        assert (environments.observations == here.observations).all()


@pytest.mark.parametrize("step", [0, 3])
def test_an_environment_that_hangs_fails_its_own_episode_alone(faulty, step):
    """Seeds 0, 1 and 2, 3 begin in a process each; those beside seed 2 are played again."""
    whole = evaluate(faulty(), episodes=8, max_envs=4, env_processes=0, workers=1).settings[0]
    options = {"episodes": 8, "max_envs": 4, "env_processes": 2, "workers": 1, "env_timeout": 2}
    done = []
    result = evaluate(faulty((2, step, "hang")), **options, progress=lambda *at: done.append(at))
    (failed,), (setting,) = result.failures, result.settings
    assert (failed.seed, failed.step, failed.error) == (2, step, "TookTooLong")
    assert failed.message == (
        "the environment took longer than the 2 s that env_timeout allows a reset or a step; its worker "
        "process was ended"
    )
    assert setting.seeds == [0, 1, 3, 4, 5, 6, 7] and done == [(i, 8) for i in range(1, 9)]
    assert setting.returns == [whole.returns[seed] for seed in setting.seeds]
    assert setting.lengths == [whole.lengths[seed] for seed in setting.seeds]
    assert children_of(os.getpid()) == []


def test_environments_that_hang_in_one_process_fail_one_by_one(faulty):
    whole = evaluate(faulty(), episodes=6, env_processes=0, workers=1).settings[0]
    faults = ((1, 2, "hang"), (2, 2, "hang"), (4, 0, "hang"))
    result = evaluate(faulty(*faults), episodes=6, workers=1, env_processes=1, env_timeout=1)
    assert [(f.seed, f.step) for f in result.failures] == [(1, 2), (2, 2), (4, 0)]
    assert result.settings[0].returns == [whole.returns[seed] for seed in (0, 3, 5)]


def test_a_limit_is_for_each_environment_and_not_for_a_process():
    """Three slots of one process wait 0.5 s each, longer together than the limit."""
    with EnvironmentProcesses(faulty_kind(waits=0.5), 3, 1, timeout=1.2) as environments:
        environments.reset(range(3), range(3))
        environments.step(np.arange(3), np.zeros((3, 1), "f4"))
        assert not environments.faults and environments.rewards.tolist() == [1.0] * 3


def test_a_limit_needs_processes(faulty):
    options = {"episodes": 2, "env_timeout": 60}
    result = evaluate(faulty(), **options)
    assert result.wall_time.env_processes >= 1
    assert result.wall_time.env_processes_reason == "env_timeout needs them"
    with pytest.raises(ValueError, match=r"^env_timeout: .* got env_processes=0; leave one of the two out"):
        evaluate(faulty(), **options, env_processes=0)
    for wrong in (0, -1.0, True, float("inf"), float("nan"), "3"):
        with pytest.raises(ValueError, match="env_timeout: expected seconds above 0, or None, got"):
            evaluate(faulty(), episodes=2, env_timeout=wrong)


def test_errors_of_set_up_end_everything_with_their_sentence(make_policy, counting):
    with pytest.raises(ValueError, match=r"observation: expected 4 numbers as in the training data, got 11"):
        evaluate(make_policy("dt", state_dim=4, action_dim=3, env_id="Hopper-v5"), env_processes=1)
    with pytest.raises(ValueError, match=r"actions: the environment takes Box.* 2 continuous numbers"):
        evaluate(make_policy("dt", state_dim=11, env_id="Hopper-v5"), env_processes=1)
    with pytest.raises(gymnasium.error.Error, match="Absent"):
        evaluate(make_policy("dt", env_id="Absent-v0"), env_processes=1)
    for asked in ({"env_processes": 1}, {"env_timeout": 5.0}):
        with pytest.raises(NotInChildren, match=r"registered in this process alone.* 'module:DtagTest/Count"):
            evaluate(make_policy("dt"), **asked)
    spec = {"id": counting.ENV_ID, "kwargs": {"lasts": lambda: 3}}
    with pytest.raises(NotInChildren, match=r"env_processes: the description .* \(env_processes=0\)"):
        evaluate(make_policy("dt", env_spec=spec), env_processes=1)
    for wrong in (-1, True, 1.5):
        with pytest.raises(ValueError, match="env_processes: expected a whole number of at least 0, or None"):
            evaluate(make_policy("dt"), env_processes=wrong)
    with pytest.raises(ValueError, match=r"env_processes: .* at least one for each of the 2 workers, got 1"):
        evaluate(make_policy("dt"), episodes=20, workers=2, env_processes=1)
    assert children_of(os.getpid()) == []


def test_a_process_that_dies_while_it_starts_is_one_sentence(faulty):
    with pytest.raises(OSError, match=r"^the environment's worker process ended with exit code 7$"):
        evaluate(faulty((-1, 0, "exit")), env_processes=1)


SCRIPT = """
    import sys, numpy as np
    import faulty_env
    from dtag_fast.rollout.env_processes import EnvironmentProcesses
    from dtag_fast.rollout.environment_kind import EnvironmentKind

    # No guard against being imported: children must not run this file again.
    print("begun", flush=True)
    faults = ((0, 2, sys.argv[1]),) if len(sys.argv) > 1 else ()
    spec = {"id": faulty_env.ENV_ID, "kwargs": {"faults": faults}}
    kind = EnvironmentKind(faulty_env.ENV_ID, spec, None, 4, 1, None, None)
    environments = EnvironmentProcesses(kind, 4, 2)
    try:
        print("ready", flush=True)
        while True:
            for row in range(4):
                environments.reset([row], [0])
            for _ in range(2):
                environments.step(np.arange(4), np.zeros((4, 1), "f4"))
    except KeyboardInterrupt:
        environments.close()
        sys.exit("interrupted")
"""


@pytest.fixture
def start(tmp_path):
    """start(*arguments): a script that steps environments in two processes until it is ended; in a process
    group of its own."""
    path, started = tmp_path / "script.py", []
    path.write_text(textwrap.dedent(SCRIPT))
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])

    def call(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, path, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("arguments", [(), ("hang",)])
def test_children_end_when_their_parent_is_killed(start, arguments):
    script = start(*arguments)
    assert [script.stdout.readline() for _ in range(2)] == ["begun\n", "ready\n"]
    children = children_of(script.pid)
    assert len(children) == 2
    time.sleep(0.5)  # all hang by now
    script.kill()
    script.wait()
    wait_until(lambda: all(parent_of(pid) is None for pid in children), seconds=END_WITHIN + 10)


@pytest.mark.parametrize("when", ["starting", "running"])
def test_an_interrupt_is_the_parents_business(start, when):
    script = start()
    assert script.stdout.readline() == "begun\n"
    if when == "running":
        assert script.stdout.readline() == "ready\n"
    else:
        wait_until(lambda: len(children_of(script.pid)) == 2)
    children = children_of(script.pid)
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does
    out, err = script.communicate(timeout=30)
    assert "begun" not in out
    assert err == "interrupted\n" if when == "running" else err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") <= (when == "starting")
    wait_until(lambda: all(parent_of(pid) is None for pid in children), seconds=10)
