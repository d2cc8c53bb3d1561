"""Sweeps that hold regularised settings beside raw ones."""

import json
import multiprocessing

import numpy as np
import pytest
import torch

from dtag_fast.data import arrow
from dtag_fast.models.behaviour import Behaviour, BehaviourModel
from dtag_fast.rollout import AGSetting, evaluate
from dtag_fast.rollout.statistics import summarize
from dtag_fast.sweep import settings_grid, sweep
from dtag_fast.sweep.table import COLUMNS
from dtag_fast.training import load_critic, load_policy
from dtag_fast.training.behaviour import load_behaviour, save_behaviour

WEIGHTS = (Behaviour(0.2), Behaviour(0.8, 0.5))
BOTH = settings_grid((0, 2, 5), (0.1, 0.3), behaviour=WEIGHTS)
LATER = ("behaviour_weight", "behaviour_radius")


def keep_model(critic, seed: int) -> None:
    """An untrained model of the behaviour in a critic's checkpoint, another one for every seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_behaviour(critic, BehaviourModel(4, 1, hidden=(16, 16)))


@pytest.fixture
def critic(make_critic):
    folder = make_critic()
    keep_model(folder, 0)
    return folder


def rows_of(folder):
    return [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]


def table(folder) -> set[str]:
    lines = (folder / "table.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines))
    return set(lines)


def test_raw_and_regularised_cells_stand_in_one_table(run, critic):
    result = sweep(run, critic=critic, settings=BOTH, episodes=3, jobs=1)
    assert (result.played, result.failures) == (9 * 3, [])
    rows = rows_of(run / "sweep")
    assert all(list(row) == list(COLUMNS) for row in rows)
    raw = [row for row in rows if row["behaviour_weight"] is None]
    assert len(raw) == 5 * 3 and all(row["lr"] is not None and row["behaviour_radius"] is None for row in raw)
    found = {}
    for row in rows:
        if row["behaviour_weight"] is not None:
            found[row["steps"], row["behaviour_weight"], row["behaviour_radius"]] = row["setting"]
            assert [row[name] for name in ("lr", "optimizer", "gradient", "radius", "radius_norm")] == [
                None
            ] * 5
    assert found == {
        (n, b.weight, b.radius): f"AG n={n} behaviour weight={b.weight:g} radius={b.radius:g}"
        for n in (2, 5)
        for b in WEIGHTS
    }
    summary = json.loads((run / "sweep/summary.json").read_text())
    assert {cell["behaviour_weight"] for cell in summary["cells"]} == {None, 0.2, 0.8}
    if arrow.is_installed():
        parquet = pytest.importorskip("pyarrow.parquet").read_table(run / "sweep/table.parquet")
        assert parquet["lr"].null_count == parquet["optimizer"].null_count == 12
        assert parquet["behaviour_weight"].null_count == 15


def test_rows_are_those_of_evaluate(run, critic):
    result = sweep(run, critic=critic, settings=BOTH, episodes=4, seed=3, jobs=1)
    shared = {"critic": load_critic(critic), "behaviour": load_behaviour(critic), "seed": 3, "workers": 1}
    for cell in result.cells:
        (theirs,) = evaluate(load_policy(run), settings=[cell.cell.setting], episodes=4, **shared).settings
        assert cell.returns == summarize(np.array(theirs.returns))
        assert cell.mean_q_gain == pytest.approx(np.mean(theirs.mean_q_gain), abs=1e-12)


def test_processes_one_cell_alone_and_all_at_once_give_the_same_bits(run, critic, tmp_path):
    options = {"critic": critic, "checkpoints": "all", "episodes": 5}
    one = sweep(run, settings=BOTH, jobs=1, out=tmp_path / "one", **options)
    two = sweep(run, settings=BOTH, jobs=2, out=tmp_path / "two", **options)
    assert table(tmp_path / "one") == table(tmp_path / "two") and one.to_dict() == two.to_dict()
    for i, setting in enumerate(BOTH):
        sweep(run, settings=[setting], jobs=1, out=tmp_path / f"{i}", **options)
        assert table(tmp_path / f"{i}") <= table(tmp_path / "one")


def test_a_sweep_goes_on_where_it_was_and_raw_cells_may_come_first(run, critic):
    raw = settings_grid((0, 2), (0.1,))
    options = {"critic": critic, "episodes": 3, "jobs": 1}
    sweep(run, settings=raw, **options)
    asked = json.loads((run / "sweep/sweep.json").read_text())
    assert asked["behaviour"] is None
    del asked["behaviour"]  # as sweeps of before wrote it, and the rows without the columns
    (run / "sweep/sweep.json").write_text(json.dumps(asked))
    old = [{name: row[name] for name in row if name not in LATER} for row in rows_of(run / "sweep")]
    (run / "sweep/table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    assert sweep(run, settings=raw, **options).played == 0
    both = settings_grid((0, 2), (0.1,), behaviour=WEIGHTS)
    assert sweep(run, settings=both, **options).played == 6
    assert json.loads((run / "sweep/sweep.json").read_text())["behaviour"] is not None
    lines = (run / "sweep/table.jsonl").read_text().splitlines(keepends=True)
    (run / "sweep/table.jsonl").write_text("".join(lines[:9]))
    assert sweep(run, settings=both, **options).played == 3
    assert table(run / "sweep") == {line.rstrip() for line in lines}
    assert sweep(run, settings=both, **options).played == 0


def test_another_model_than_that_of_the_finished_cells_is_refused(run, critic):
    options = {"critic": critic, "episodes": 2, "jobs": 1}
    sweep(run, settings=BOTH, **options)
    before = table(run / "sweep")
    keep_model(critic, 1)
    with pytest.raises(ValueError, match=r"the checksum of the behaviour's model was '\w{8}', got '\w{8}'"):
        sweep(run, settings=BOTH, **options)
    assert table(run / "sweep") == before
    more = sweep(run, settings=settings_grid((0, 3), (0.1,)), **options)  # which the model has no part in
    assert more.played == 2
    keep_model(critic, 0)
    assert sweep(run, settings=BOTH, **options).played == 0


def test_a_model_that_is_replaced_while_jobs_wait_fails_them(run, critic):
    def replace(done, total):
        keep_model(critic, 1)

    result = sweep(run, critic=critic, settings=BOTH, episodes=2, jobs=1, progress=replace)
    assert result.failures and all("was replaced during the sweep" in text for text in result.failures)
    assert all(cell.episodes == 0 for cell in result.cells if cell.cell.setting.behaviour is not None)


def test_stopping_and_the_best_name_regularised_cells(run, critic):
    options = {"critic": critic, "settings": BOTH, "episodes": 12, "stop_worse": True, "block": 4}
    result = sweep(run, jobs=1, **options)
    stopped = {cell.cell for cell in result.cells if cell.dropped}
    assert stopped and all(
        cell.dropped[1][1] < 0 and cell.episodes == cell.dropped[0] for cell in result.cells if cell.dropped
    )
    only = settings_grid((0, 5), (), behaviour=WEIGHTS)
    result = sweep(run, jobs=1, **options | {"settings": only, "confirm": 2, "stop_worse": False})
    assert [cell.cell.label for cell in result.cells] == [
        "plain policy target=50",
        "AG n=5 behaviour weight=0.2 radius=1 target=50",
        "AG n=5 behaviour weight=0.8 radius=0.5 target=50",
    ]
    assert result.best.cell.label in result.choice and result.confirmation.best.cell == result.best.cell


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"critic": None}, "critic: AG n=2 .*weight=0.2 radius=1 needs"),
        ({"env_timeout": 0}, "env_timeout: expected seconds above 0, or None, got 0"),
        ({"env_timeout": "2"}, "env_timeout: expected seconds above 0, or None, got '2'"),
        ({"executor": "slurm"}, "executor: expected"),
    ],
)
def test_bad_arguments_are_refused_before_a_model_is_fitted(run, make_critic, change, complaint):
    """The critic's dataset is not there: to fit a model would be another error."""
    options = {"critic": make_critic("bare"), "settings": settings_grid((2,), (), behaviour=WEIGHTS)}
    with pytest.raises(ValueError, match=complaint):
        sweep(run, episodes=1, jobs=1, **options | change)
    assert not (run / "sweep").exists()
    with pytest.raises(FileNotFoundError, match="is fitted to the critic's dataset once"):
        sweep(run, episodes=1, jobs=1, **options)
    assert not (run / "sweep").exists()
    assert multiprocessing.active_children() == []


def test_a_model_of_other_sizes_is_refused(run, critic):
    save_behaviour(critic, BehaviourModel(7, 1, hidden=(8,)))
    with pytest.raises(ValueError, match=r"behaviour: expected one for .* = \(4, 1\), got \(7, 1\)"):
        sweep(run, critic=critic, settings=BOTH, episodes=1, jobs=1)


def test_a_grid_has_regularised_settings_after_the_raw_ones():
    grid = settings_grid((0, 2, 5), (0.1,), ("sgd", "adam"), ("min", "mean"), behaviour=WEIGHTS)
    regularised = [setting for setting in grid if setting.behaviour is not None]
    assert len(grid) == 1 + 2 * 2 * 2 + 2 * 2 * 2 and grid[-len(regularised) :] == regularised
    alone = settings_grid((0, 2), (), behaviour=WEIGHTS)
    assert alone == [AGSetting(), *(AGSetting(2, behaviour=b) for b in WEIGHTS)]
