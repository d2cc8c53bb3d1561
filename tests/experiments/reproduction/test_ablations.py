"""What is told of the number of steps and of the optimizers, against cases worked out by hand."""

import json

import pytest
from scored import scores_of
from suites_of_data import run_small, small_lab

from dtag_fast.experiments.reproduction import (
    critic_study,
    gate_study,
    optimizer_study,
    starts_study,
    steps_study,
)
from dtag_fast.experiments.reproduction.steps_study import _later_steps_add, _method, _shape

TASK = "hopper-medium"


@pytest.mark.parametrize(
    ("gains", "best", "gain", "enough", "below"),
    [
        ({1: 1.0, 2: 9.5, 3: 10.0, 5: 4.0, 9: -1.0}, 3, 10.0, 2, 9),
        ({1: -3.0, 2: -1.0, 3: -2.0}, 2, -1.0, 2, 3),
        ({1: 1.0, 2: 2.0}, 2, 2.0, 2, None),
        ({1: -1.0, 2: 5.0, 3: 4.6}, 2, 5.0, 2, None),  # below 0 before the best one is no collapse
    ],
)
def test_shape_of_a_gain_over_n(gains, best, gain, enough, below):
    found = _shape(gains)
    assert (found.best, found.gain, found.enough, found.below) == (best, gain, enough, below)


@pytest.mark.parametrize(
    ("gains", "adds"),
    [
        ({1: 2.0, 15: 10.0, 20: 12.0, 100: 9.0}, False),
        ({1: 2.0, 15: 10.0, 20: 12.0, 100: 11.0}, True),
        ({1: 5.0, 15: -2.0, 20: -1.0}, False),  # what is lost at 15 counts as nothing, not as less
        ({1: 5.0, 15: -2.0, 20: 1.0}, True),
        ({1: -5.0, 15: 2.0, 20: 9.0}, None),
        ({1: 5.0, 15: 2.0}, None),
        ({1: 5.0, 20: 2.0}, None),
    ],
)
def test_whether_later_steps_add(gains, adds):
    assert _later_steps_add(gains) is adds


def test_steps_table_and_claims(monkeypatch):
    monkeypatch.setattr(steps_study, "STEPS", (1, 10, 15, 100))
    monkeypatch.setattr(steps_study, "LR", (0.1,))
    monkeypatch.setattr(steps_study, "SHOWN", (10, 15, 100))
    by_n = {1: (11.0, 21.0), 10: (19.0, 29.0), 15: (20.0, 30.0), 100: (12.0, 22.0)}
    table = {(TASK, "RF"): (10.0, 20.0)}
    table |= {(TASK, _method("RF", "best", 0.1, n)): values for n, values in by_n.items()}
    falls = {1: (12.0, 22.0), 10: (5.0, 15.0), 15: (4.0, 14.0), 100: (0.0, 10.0)}
    table |= {(TASK, _method("RF", "last", 0.1, n)): values for n, values in falls.items()}
    found = steps_study.report(scores_of(table), [TASK])
    assert found.tables["steps"].rows == [
        [TASK, "RF", "best", "0.1", "15", "+10.0", "10", "+9.0", "+10.0", "+2.0", "-"],
        [TASK, "RF", "last", "0.1", "1", "+2.0", "1", "-5.0", "-6.0", "-10.0", "10"],
    ]
    assert [claim.holds for claim in found.claims] == [True, True]
    assert [claim.measured.split()[1:4] for claim in found.claims] == [["1", "of", "1"]] * 2
    axes = found.figures["steps"].axes[0]
    assert axes.get_title() == f"{TASK}, RF, best" and axes.get_xscale() == "symlog"


def test_what_diverged_keeps_its_row_in_the_table_of_steps(monkeypatch):
    monkeypatch.setattr(steps_study, "STEPS", (1, 10))
    monkeypatch.setattr(steps_study, "LR", (0.01, 0.1))
    monkeypatch.setattr(steps_study, "SHOWN", (10,))
    table = {(TASK, "DT"): (10.0, 20.0)}
    table |= {(TASK, _method("DT", "best", 0.01, n)): (10.0 + n, None) for n in (1, 10)}
    table |= {(TASK, _method("DT", "best", 0.1, n)): (None, None) for n in (1, 10)}
    assert steps_study.report(scores_of(table), [TASK]).tables["steps"].rows == [
        [TASK, "DT", "best", "0.01", "10", "+10.0, 1 diverged", "10", "+10.0", "-"],
        [TASK, "DT", "best", "0.1", "-", "-, 2 diverged", "-", "-", "-"],
    ]


def test_without_numbers_there_is_an_empty_table_and_no_claim_holds():
    found = steps_study.report([], [TASK])
    assert found.tables["steps"].rows == [] and not any(claim.holds for claim in found.claims)
    assert not any(claim.holds for claim in optimizer_study.report([], [TASK]).claims)


def test_optimizers_are_counted_by_their_mean():
    means = {"SGD": 12.0, "momentum": 15.0, "Adam": 11.0, "RMSprop": 14.0}
    table = {(TASK, "RF"): (10.0, 10.0), (TASK, "RF own"): (11.0, 11.0)}
    table |= {(TASK, f"RF+AG {name}"): (value, value + 2) for name, value in means.items()}
    # With step sizes of the checkpoint itself the order is the other way round.
    table |= {(TASK, f"RF+AG {name} own"): (30 - value, 32 - value) for name, value in means.items()}
    found = optimizer_study.report(scores_of(table), [TASK])
    assert [claim.measured for claim in found.claims] == [
        "SGD 0, momentum 1, Adam 0, RMSprop 0 of 1; half by chance",
        "SGD 0, momentum 0, Adam 1, RMSprop 0 of 1; half by chance",
    ]
    assert [claim.holds for claim in found.claims] == [True, False]
    expected = {
        "gains": ("RF+AG Adam - RF", "+2.0"),
        "against-sgd": ("RF+AG RMSprop - RF+AG SGD", "+2.0"),
        "own-gains": ("RF+AG Adam own - RF own", "+9.0"),
        "own-against-sgd": ("RF+AG RMSprop own - RF+AG SGD own", "-2.0"),
    }
    for name, (column, gain) in expected.items():
        row = dict(zip(found.tables[name].header, found.tables[name].rows[0], strict=True))
        assert row[column].startswith(f"{gain} (") and len(row) == (7 if "against" in name else 9)
    assert "RF+AG momentum own" in found.tables["own-scores"].header
    assert found.tables["own-settings"].header[1:3] == ["DT+AG SGD own", "DT+AG momentum own"]


def test_an_optimizer_is_left_out_of_the_count_until_all_four_have_scores():
    table = {(TASK, f"RF+AG {name}"): (1.0, 2.0) for name in ("SGD", "momentum", "Adam")}
    claim = optimizer_study.report(scores_of(table), [TASK]).claims[0]
    assert not claim.holds and claim.measured.endswith(" of 0; half by chance")


def test_optimizers_share_a_case_in_which_they_tie():
    thirds = (0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1)
    assert thirds[0] != thirds[1]  # and differ in the last bit alone
    values = {"SGD": 0.0, "momentum": thirds[1], "Adam": 0.5, "RMSprop": thirds[0]}
    table = {(TASK, f"RF+AG {name}"): (value, value) for name, value in values.items()}
    claim = optimizer_study.report(scores_of(table), [TASK]).claims[0]
    assert claim.measured == "SGD 0, momentum 1, Adam 0, RMSprop 1 of 1, 1 of them shared; half by chance"
    assert claim.holds


def test_each_optimizer_is_tuned_on_the_tuning_seed_and_on_the_checkpoint(tmp_path):
    lab = small_lab(tmp_path, seeds=1, hopper=("medium",))
    _, made = run_small("ablation-optimizer", optimizer_study.STUDY, lab, tmp_path, [TASK])
    assert not made.failures and not made.missing
    rows = {row["method"]: row for row in json.loads((tmp_path / "out/results.json").read_text())["rows"]}
    assert len(rows) == 2 * 2 * (1 + len(optimizer_study.OPTIMIZERS))
    assert rows["RF own"]["score"] == rows["RF"]["score"]
    for label, setting in (("Adam", "Adam("), ("momentum", "momentum=0.9")):
        assert all(setting in rows[f"RF+AG {label}{kind}"]["setting"] for kind in ("", " own"))
    gains = {
        rows[f"RF+AG {label}{kind}"]["tuning_gain"] for label in ("SGD", "Adam") for kind in ("", " own")
    }
    assert len(gains) == 4  # each chosen by episodes and with steps of its own


def test_small_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(steps_study, "STEPS", (1, 3))
    monkeypatch.setattr(steps_study, "LR", (0.01, 0.1))
    monkeypatch.setattr(steps_study, "SHOWN", (1, 3))
    lab = small_lab(tmp_path, seeds=1, hopper=("medium",))
    plan, made = run_small("ablation-steps", steps_study.STUDY, lab, tmp_path, [TASK])
    assert not made.failures and not made.missing
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    # Each policy alone; DT with the best iterate, Reinformer with the best and the last.
    assert len(rows) == 2 + 2 * 2 + 2 * 2 * 2 and len({row["method"] for row in rows}) == len(rows)
    settings = {row["method"]: row["setting"] for row in rows}
    assert settings[_method("RF", "last", 0.1, 3)] == "AG n=3 lr=0.1 select=last"
    assert settings[_method("DT", "best", 0.01, 1)] == "AG n=1 lr=0.01" and settings["DT"] == "plain policy"
    assert (tmp_path / "out/figures/steps.png").is_file()
    assert plan.work.kinds()["trainings"][0] == 4  # iql, reinformer, dt, and the dt that chooses its return


def test_gates_stand_beside_each_other():
    gains = {None: {10: 4.0, 30: 2.0, 100: -6.0}, 0.99: {10: 4.0, 30: 3.0, 100: 0.0}}
    gains[0.9] = {10: 1.0, 30: 1.0, 100: -1.0}
    table = {(TASK, "RF"): (10.0, 20.0)}
    for gate, by_n in gains.items():
        for n, gain in by_n.items():
            table[TASK, gate_study.method(gate, 0.1, n)] = (9.0 + gain, 21.0 + gain)
    table[TASK, gate_study.method(None, 0.01, 100)] = (20.0, 30.0)
    table[TASK, gate_study.method(0.99, 0.01, 100)] = (19.0, 29.0)
    table[TASK, gate_study.method(0.9, 0.01, 100)] = (18.0, 28.0)
    found = gate_study.report(scores_of(table), [TASK])
    rows = found.tables["gates"].rows
    assert [row[1:3] for row in rows] == [["0.01", "100"], ["0.1", "10"], ["0.1", "30"], ["0.1", "100"]]
    assert rows[0][3:] == ["+10.0 (+10.0 to +10.0)", "+9.0 (+9.0 to +9.0)", "+8.0 (+8.0 to +8.0)"]
    assert [cell.split()[0] for cell in rows[3][3:]] == ["-6.0", "+0.0", "-1.0"]
    saved, kept = found.claims
    assert not saved.holds and saved.measured.startswith("on 1 of 2")
    assert not kept.holds and kept.measured.startswith("on 1 of 2")
    assert [axes.get_title() for axes in found.figures["gates"].axes][:2] == [
        f"{TASK}, step size 0.01",
        f"{TASK}, step size 0.1",
    ]
    assert gate_study.report([], [TASK]).tables["gates"].rows == []


def test_what_diverged_keeps_its_row_in_the_table_of_gates():
    table = {(TASK, "RF"): (10.0, 20.0)}
    values = {None: (7.0, None), 0.99: (None, None), 0.9: (12.0, 22.0)}
    table |= {(TASK, gate_study.method(gate, 0.1, 100)): of_seeds for gate, of_seeds in values.items()}
    found = gate_study.report(scores_of(table), [TASK])
    (row,) = found.tables["gates"].rows
    assert row[1:] == ["0.1", "100", "-3.0, 1 diverged", "-, 2 diverged", "+2.0 (+2.0 to +2.0)"]
    assert not any(claim.holds for claim in found.claims)


def test_small_run_with_gates(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_study, "STEPS", (1, 3))
    monkeypatch.setattr(gate_study, "LR", (0.1,))
    monkeypatch.setattr(gate_study, "GATES", (None, 0.0, 1.0))
    monkeypatch.setattr(critic_study, "HOLDOUT", 0.5)
    lab = small_lab(tmp_path, seeds=1, hopper=("medium",))
    _, made = run_small("ensemble-gate", gate_study.STUDY, lab, tmp_path, [TASK])
    assert not made.failures and not made.missing
    rows = {row["method"]: row for row in json.loads((tmp_path / "out/results.json").read_text())["rows"]}
    assert len(rows) == 1 + 3 * 2
    # The data's own least disagreement stops nearly every climb, their greatest hardly one.
    free, closed, open_ = (rows[gate_study.method(gate, 0.1, 3)]["q_gain"] for gate in (None, 0.0, 1.0))
    assert 0 <= closed < 0.5 * free and open_ <= free * 1.001


def test_starts_are_compared_with_as_many_more_steps():
    by_arm = {"n=10": 12.0, "n=40": 14.0, "4 x n=10": 15.0, "20 x n=2": 11.0, "best of 40": 13.0}
    table = {(TASK, "RF"): (10.0, 10.0), (TASK, "ODT"): (10.0, 10.0)}
    table |= {(TASK, starts_study.method("RF", arm)): (value, value + 2) for arm, value in by_arm.items()}
    table |= {(TASK, starts_study.method("ODT", arm)): (value, value) for arm, value in by_arm.items()}
    table[TASK, starts_study.method("ODT", "4 x n=10")] = (14.0, 14.0)
    found = starts_study.report(scores_of(table), [TASK])
    row = dict(zip(found.tables["against-steps"].header, found.tables["against-steps"].rows[0], strict=True))
    assert row["RF+AG 4 x n=10 - RF+AG n=40"].startswith("+1.0 (")
    assert not any("n=40 - RF+AG n=40" in name for name in row)
    starts, climbing = found.claims
    assert not starts.holds and starts.measured == "on 1 of 2 tasks and policies"
    assert climbing.holds and climbing.measured == "on 2 of 2 tasks and policies"


def test_small_run_with_several_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(
        starts_study, "ARMS", {"n=10": (1, 1), "n=40": (1, 2), "4 x n=10": (2, 1), "best of 40": (3, 0)}
    )
    lab = small_lab(tmp_path, seeds=1, hopper=("medium",))
    _, made = run_small("multi-start", starts_study.STUDY, lab, tmp_path, [TASK])
    assert not made.failures and not made.missing
    rows = {row["method"]: row for row in json.loads((tmp_path / "out/results.json").read_text())["rows"]}
    assert len(rows) == 2 * 5 and rows["ODT+AG best of 40"]["setting"].startswith("AG n=0 starts=3")
    assert " starts=2" in rows["RF+AG 4 x n=10"]["setting"]
    gains = made.findings.tables["q-gains"].rows
    assert all(float(gain) > 0 for gain in gains[0][1:])
