"""`dtag reproduce high-dim`: its problem, its pieces of work and what is made of them, in small sizes."""

import json
from dataclasses import replace

import pytest
import torch

from dtag_fast.data.catalog import METADATA_FILE
from dtag_fast.executors.choice import InThisProcess
from dtag_fast.experiments.reproduction import dimension_gain, high_dim_study, high_dim_tables
from dtag_fast.experiments.reproduction.budget import SMALL
from dtag_fast.experiments.reproduction.dimension_gain import DimensionGain, ExactCritic, Shell, measure
from dtag_fast.experiments.reproduction.high_dim_tables import Gain, Latency
from dtag_fast.experiments.reproduction.lab import Lab
from dtag_fast.experiments.reproduction.refinement_latency import RefinementLatency, interleaved
from dtag_fast.experiments.reproduction.scores import Score
from dtag_fast.experiments.reproduction.studies import STUDIES
from dtag_fast.experiments.reproduction.study_runs import plan_study, run_study
from dtag_fast.experiments.reproduction.tasks import Source
from dtag_fast.experiments.reproduction.work import Shelf

TINY = DimensionGain(3, "silu", 1, updates=5, samples=64, batch_size=8, hidden=(8,), tested=16)


def made(work, root):
    """What a piece of work writes."""
    path = Shelf(root).path(work)
    path.parent.mkdir(parents=True, exist_ok=True)
    work.do(path, Shelf(root), lambda share: None)
    return json.loads(path.read_text())


@pytest.mark.parametrize("action_dim", [1, 7, 256])
def test_data_lie_on_a_shell_around_the_optimum(action_dim):
    problem = Shell(action_dim, torch.Generator().manual_seed(0))
    states, actions = problem.demonstrate(2000, torch.Generator().manual_seed(1))
    assert actions.shape == (2000, action_dim) and actions.abs().max() <= 1
    assert problem.optimum(states).abs().max() < 0.2
    away = actions - problem.optimum(states)
    distance = away.square().mean(dim=1).sqrt()
    uncut = actions.abs().max(dim=1).values < 1
    assert uncut.float().mean() > 0.99
    assert distance[uncut].min() >= dimension_gain.NEAREST - 1e-5
    assert distance.max() <= dimension_gain.FARTHEST + 1e-5
    assert (away > 0).float().mean() == pytest.approx(0.5, abs=0.03)  # in every direction
    torch.testing.assert_close(problem.reward(states, actions)[:, 0], 1 - distance**2)


@pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow autograd reference")
@pytest.mark.parametrize("action_dim", [1, 4, 64])
def test_the_exact_critic_closes_the_gap_as_the_formula_says(action_dim):
    """dQ/da = -2 (a - g) / A, so a_n - g = (1 - 2 lr / A)^n (a_0 - g); with lr A in place of lr the same for
    every A."""
    work = replace(TINY, action_dim=action_dim, steps=(1, 10), lr=(0.03, 0.1))
    problem = Shell(action_dim, torch.Generator().manual_seed(2))
    states, actions = problem.demonstrate(32, torch.Generator().manual_seed(3))

    class Both(ExactCritic):
        """As a twin critic has it: (E, N, 1)."""

        def forward(self, states, actions):
            return super().forward(states, actions), super().forward(states, actions)

    found = measure(work, problem, Both(problem), states, actions)
    assert found["critic_error"] == 0
    squared = (actions - problem.optimum(states)).square().mean()
    assert found["imitator_reward"] == pytest.approx(1 - float(squared), rel=1e-5)
    assert len(found["rows"]) == 2 * 2 * 2 * 2
    for row in found["rows"]:
        left = (1 - 2 * row["lr"] / (1 if row["scaled"] else action_dim)) ** row["steps"]
        assert row["closed"] == pytest.approx(1 - left**2, abs=2e-4)
        assert row["distance"] == pytest.approx(left * float(squared) ** 0.5, rel=1e-3)
        assert row["q_gain"] == pytest.approx(row["reward"] - found["imitator_reward"], abs=1e-5)


def test_a_trained_critic_leads_towards_the_optimum(tmp_path):
    work = DimensionGain(1, "silu", 1, updates=800, learning_rate=3e-3, hidden=(64, 64), samples=8000)
    found = made(work, tmp_path)
    rows = [r for r in found["rows"] if (r["critic"], r["scaled"], r["lr"]) == ("trained", True, 0.1)]
    few, many = sorted(rows, key=lambda row: row["steps"])
    assert 0.1 < few["closed"] < many["closed"] and 0 < few["q_gain"] < many["q_gain"]
    assert many["distance"] < few["distance"] < found["imitator_distance"]


def test_the_same_piece_gives_the_same_numbers_and_leaves_the_generator_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = made(TINY, tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert made(TINY, tmp_path / "b") == first
    assert made(replace(TINY, seed=2), tmp_path / "b") != first


def test_calls_take_turns_and_are_timed_by_the_clock():
    """A clock that a call moves on by what it is said to take."""
    now, order = [0.0], []

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    shares = []
    found = interleaved(
        {"slow": call("slow", 3.0), "fast": call("fast", 1.0)}, 3, lambda: now[0], progress=shares.append
    )
    assert found == {"slow": 3.0, "fast": 1.0}
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    turns = [name for place, name in enumerate(order) if place == 0 or order[place - 1] != name]
    # timed three times, the second time backwards; who ends a round begins the next
    assert turns[-4:] == ["slow", "fast", "slow", "fast"]


def test_a_latency_names_the_machine_in_its_result_alone(tmp_path, monkeypatch):
    work = RefinementLatency(((3, 1), (3, 2)), batches=(1, 4), steps=2, hidden=(8,), rounds=1)
    name = work.name
    found = made(work, tmp_path)
    assert (
        found["machine"]["cpu"] and found["machine"]["device"] == "cpu" and found["machine"]["threads"] == 1
    )
    assert [(row["state_dim"], row["action_dim"], row["batch"]) for row in found["rows"]] == [
        (3, a, b) for a in (1, 2) for b in (1, 4)
    ]
    assert all(row["refiner_seconds"] > 0 and row["eager_seconds"] > 0 for row in found["rows"])
    monkeypatch.setattr("dtag_fast.experiments.reproduction.machine._cpu", lambda: "another")
    assert RefinementLatency(((3, 1), (3, 2)), batches=(1, 4), steps=2, hidden=(8,), rounds=1).name == name
    assert replace(work, device="cuda").name != name


def latency_row(action_dim, refiner, eager=1.0):
    return {
        "state_dim": 17,
        "action_dim": action_dim,
        "batch": 1,
        "backend": "cpu",
        "eager_seconds": eager,
        "refiner_seconds": refiner,
    }


@pytest.mark.parametrize(
    ("seconds", "grows_slowly", "faster"),
    [
        ({1: 0.1, 2: 0.15, 64: 0.2, 128: 0.9}, True, True),  # beyond 64 nothing is claimed
        ({1: 0.1, 2: 0.25}, False, True),
        ({1: 0.9, 2: 1.1}, True, False),
    ],
)
def test_claims_on_latency(seconds, grows_slowly, faster):
    machine = {"cpu": "x", "cores": 2, "isa": None, "device": "cpu", "torch": "2", "load": 0.0}
    found = Latency("cpu", 10, machine, [latency_row(a, s) for a, s in seconds.items()])
    assert [c.holds for c in high_dim_tables.latency_claims([found], 17)] == [grows_slowly, faster]
    table = high_dim_tables.latency([found])
    times = (f"{1e6 * seconds[1]:.0f}", "1000000", f"{1 / seconds[1]:.1f}")
    assert table.rows[0] == ("cpu", "cpu", "17", "1", "1", *times)
    assert "x, 2 cores" in table.note


def gain_of(action_dim, scaled, plain, error=0.1, seed=1):
    rows = [
        {"critic": critic, "scaled": s, "lr": 0.1, "steps": 10, "reward": 0.9, "closed": value}
        for critic in ("trained", "exact")
        for s, value in ((True, scaled), (False, plain))
    ]
    return Gain(action_dim, "relu", seed, 0.8, 0.4, error, rows)


def test_claims_on_gain():
    good = [gain_of(1, 0.9, 0.9), gain_of(2, 0.8, 0.3)]
    assert [c.holds for c in high_dim_tables.gain_claims(good)] == [True, True, True]
    # The mean over seeds decides: 0.2 and -0.4 at A = 4 are a loss, and less than what the other gains.
    bad = [*good, gain_of(4, 0.2, 0.1), gain_of(4, -0.4, 0.1, seed=2)]
    everywhere, times, knowing = high_dim_tables.gain_claims(bad)
    assert not everywhere.holds and everywhere.measured == "at 2 of 3; not at A = 4"
    assert not times.holds and times.measured == "at 1 of 2; not at A = 4"
    assert not knowing.holds and knowing.measured == "by 3 of 4 such critics, of 4"
    # A critic that knows less than the mean reward does may lose.
    unknowing = [*good, gain_of(4, -0.4, -0.5, error=1.2)]
    assert [c.holds for c in high_dim_tables.gain_claims(unknowing)] == [False, True, True]
    nothing = high_dim_tables.gain_claims([gain_of(1, 0.9, 0.9, error=1.2)])[-1]
    assert not nothing.holds and nothing.measured == "by 0 of 0 such critics, of 1"


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A lab without data whose sizes are of no use."""
    monkeypatch.setattr(high_dim_study, "DIMS", (1, 2))
    monkeypatch.setattr(high_dim_study, "DOOR", (39, 3))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shapes = ((17, 1), (17, 2), (39, 3))
    latency = RefinementLatency(shapes, batches=(1, 2), steps=1, hidden=(4,), rounds=1)
    monkeypatch.setattr(high_dim_study, "LATENCY", latency)
    monkeypatch.setattr(high_dim_study, "GAIN", TINY)
    (tmp_path / "data").mkdir()
    budget = replace(SMALL, updates=SMALL.updates | {"iql": 20})
    return Lab(budget, Source("local", tmp_path / "data"), seeds=2)


def test_without_data_the_synthetic_parts_are_made_and_reported(small, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    plan = plan_study(high_dim_study.STUDY, small, runs)
    assert plan.tasks == [] and set(plan.absent) == {"door-human", "door-expert"}
    # one latency; 2 seeds of A = 1, 2, 3 and two activations, a tenth of IQL's updates each
    gains = [goal.work for goal in plan.goals if isinstance(goal.work, DimensionGain)]
    assert len(plan.goals) == 1 + 2 * 3 * 2 and {work.updates for work in gains} == {2}
    assert {(w.action_dim, w.activation, w.seed) for w in gains} == {
        (a, activation, seed) for a in (1, 2, 3) for activation in ("relu", "silu") for seed in (1, 2)
    }
    with InThisProcess() as crew:
        made = run_study("high-dim", high_dim_study.STUDY, small, plan, runs=runs, out=out, crew=crew)
    assert not made.failures and not made.missing
    assert set(made.findings.tables) == {"latency", "gain", "gain-settings"}
    assert {f"figures/{name}.{kind}" for name in ("latency", "gain") for kind in ("png", "svg")} < {
        file.relative_to(out).as_posix() for file in made.files
    }
    assert len(made.findings.tables["gain"].rows) == 6 and len(made.findings.claims) == 2 + 4 + 1
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert rows[0]["machine"]["device"] == "cpu" and rows[1]["activation"] == "relu"
    assert not plan_study(high_dim_study.STUDY, small, runs).work.missing


def test_a_study_of_datasets_alone_still_asks_for_data(small, tmp_path):
    with pytest.raises(ValueError, match="data: there is none for this suite; wanted local/halfcheetah"):
        plan_study(STUDIES["gym"], small, tmp_path / "runs")


def test_with_data_a_policy_is_played_with_and_without_action_gradient(small, tmp_path):
    for quality in ("human", "expert"):
        folder = tmp_path / f"data/local/door/{quality}-v0/data"
        folder.mkdir(parents=True)
        (folder / METADATA_FILE).write_text("{}")
    goals = [g for g in high_dim_study.goals(small, high_dim_study.ADROIT) if g.task != "synthetic"]
    assert [(g.task, g.method, g.seed, g.row) for g in goals] == [
        (task, method, seed, row)
        for seed in (1, 2)
        for task in ("door-human", "door-expert")
        for method, row in (("RF", "plain"), ("RF+AG", "refined"))
    ]
    assert all(g.work.policy.algorithm == "reinformer" and g.work.critic.algorithm == "iql" for g in goals)
    assert high_dim_study.read(goals[0], Shelf(tmp_path / "runs")) is None
    scores = [
        Score(g.task, g.method, g.seed, 10.0 + 5 * (g.row == "refined"), 1.0, None, g.method, 2, None)
        for g in goals
    ]
    findings = high_dim_study.report(scores, high_dim_study.ADROIT)
    assert set(findings.tables) == {"adroit", "adroit-gain"} and [c.holds for c in findings.claims] == [True]
    assert findings.tables["adroit"].rows[0] == ["door-human", "10.0 ± 0.0", "15.0 ± 0.0"]
