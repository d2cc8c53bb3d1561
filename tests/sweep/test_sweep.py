"""Sweeps as their users see them: the same table by every way, nothing played twice, nothing lost."""

import json
import shutil
import sys
from pathlib import Path

import faulty_env
import gymnasium
import numpy as np
import pytest

from dtag_fast.cli.sweep import cells_table
from dtag_fast.data import arrow
from dtag_fast.rollout import AGSetting, Candidates, evaluate
from dtag_fast.rollout.statistics import paired_difference, summarize
from dtag_fast.sweep import jobs as jobs_module
from dtag_fast.sweep import settings_grid, sweep
from dtag_fast.training import load_critic, load_policy

GRID = settings_grid((0, 2, 5), (0.1, 0.3), reduce=("mean", "min"))
MORTAL = "mortal_env:DtagTest/Mortal-v0"


def table(folder: Path) -> set[str]:
    """The lines of a table, without their order."""
    lines = (folder / "table.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines))
    return set(lines)


@pytest.fixture
def played(monkeypatch):
    """Episodes that `evaluate` was asked for in this process, job by job."""
    counts = []

    def count(policy, **options):
        result = evaluate(policy, **options)
        counts.append(sum(len(setting.seeds) for setting in result.settings))
        return result

    monkeypatch.setattr(jobs_module, "evaluate", count)
    return counts


def test_one_cell_alone_two_processes_and_all_at_once_give_the_same_bits(run, critic, tmp_path):
    options = {"critic": critic, "checkpoints": "all", "episodes": 7}
    whole = sweep(run, settings=GRID, jobs=1, out=tmp_path / "one", **options)
    assert (whole.played, whole.failures) == (2 * 9 * 7, [])
    sweep(run, settings=GRID, jobs=2, out=tmp_path / "two", **options)
    assert table(tmp_path / "one") == table(tmp_path / "two")
    if arrow.is_installed():
        one, two = ((tmp_path / name / "table.parquet").read_bytes() for name in ("one", "two"))
        assert one == two
    assert (tmp_path / "one/summary.json").read_text() == (tmp_path / "two/summary.json").read_text()
    for i, setting in enumerate(GRID):  # other batches
        alone = sweep(run, settings=[setting], jobs=1, out=tmp_path / f"{i}", **options)
        assert table(tmp_path / f"{i}") <= table(tmp_path / "one")
        assert alone.baseline_added != setting.is_plain


def test_rows_and_statistics_are_those_of_evaluate(run, critic, tmp_path):
    result = sweep(run, critic=critic, settings=GRID, episodes=5, seed=3, jobs=1)
    assert result.out == run / "sweep"
    options = {"critic": load_critic(critic), "episodes": 5, "seed": 3, "max_envs": 8, "workers": 1}
    plain = next(cell for cell in result.cells if cell.cell.setting.is_plain)
    for mine in result.cells:
        (theirs,) = evaluate(load_policy(run), settings=[mine.cell.setting], **options).settings
        assert mine.returns == summarize(np.array(theirs.returns)) and mine.episodes == 5
        assert mine.score.mean == pytest.approx(theirs.normalized.mean)
        assert mine.mean_q_gain == pytest.approx(np.mean(theirs.mean_q_gain))
        rows = [json.loads(line) for line in table(result.out)]
        rows = sorted((r for r in rows if r["setting"] == mine.cell.label.split(" target")[0]), key=_seed)
        assert [r["episode_return"] for r in rows] == theirs.returns
        assert [r["length"] for r in rows] == theirs.lengths and [r["seed"] for r in rows] == theirs.seeds
        assert [r["mean_q_0"] for r in rows] == theirs.mean_q_0
        if mine is not plain:
            base = [json.loads(line) for line in table(result.out)]
            base = sorted((r for r in base if r["steps"] == 0), key=_seed)
            expected = paired_difference(theirs.returns, [r["episode_return"] for r in base])
            assert mine.paired == expected
    assert plain.paired is None and result.best.returns.mean == max(c.returns.mean for c in result.cells)
    assert "best of 9 settings, chosen by these same 5 episodes (45 evaluation episodes" in result.choice
    summary = json.loads((result.out / "summary.json").read_text())
    assert summary["not_normalized"] is None and cells_table(result).caption is None
    assert summary["tuning"]["episodes"] == 45 and summary["best"]["label"] == result.best.cell.label


def test_why_there_are_no_scores_is_said(run):
    """Of an environment that is not the data's."""
    result = sweep(run, settings=[AGSetting()], episodes=1, jobs=1, env_id="InvertedPendulum-v4")
    reason = "neither the dataset nor D4RL's table has references for this task"
    assert [cell.score for cell in result.cells] == [None]
    assert json.loads((result.out / "summary.json").read_text())["not_normalized"] == reason
    assert cells_table(result).caption == f"normalised: none; {reason}"


def test_another_environment_is_played_as_evaluate_plays_it(run, tmp_path, monkeypatch):
    """With its own time limit, and not that of the data."""
    (tmp_path / "brief.py").write_text(
        "import gymnasium\n"
        "entry_point = gymnasium.spec('InvertedPendulum-v5').entry_point\n"
        "gymnasium.register('DtagTest/Brief-v0', entry_point, max_episode_steps=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = run / "checkpoints/9/config.json"
    content = json.loads(file.read_text())
    content["info"]["max_episode_steps"] = 2
    file.write_text(json.dumps(content))
    options = {"episodes": 2, "env_id": "brief:DtagTest/Brief-v0"}
    try:
        result = sweep(run, settings=[AGSetting()], jobs=1, **options)
        theirs = evaluate(load_policy(run), **options)
    finally:
        sys.modules.pop("brief", None)
        gymnasium.registry.pop("DtagTest/Brief-v0", None)
    rows = sorted(map(json.loads, table(result.out)), key=_seed)
    assert [row["length"] for row in rows] == theirs.settings[0].lengths == [3, 3]
    assert [row["episode_return"] for row in rows] == theirs.settings[0].returns
    assert (result.env_id, result.not_normalized) == (theirs.env_id, theirs.not_normalized)


@pytest.mark.parametrize("env_id", ["Nope-v0", "no_such_module:Nope-v0"])
def test_an_environment_that_is_mistyped_leaves_the_folder_free(run, tmp_path, env_id):
    options = {"settings": [AGSetting()], "episodes": 1, "jobs": 1, "out": tmp_path / "out"}
    with pytest.raises((ValueError, gymnasium.error.Error), match=r"env_id: .*Nope"):
        sweep(run, env_id=env_id, **options)
    assert sweep(run, env_id="InvertedPendulum-v4", **options).played == 1
    with pytest.raises(ValueError, match="is of another sweep: env_id was 'InvertedPendulum-v4'"):
        sweep(run, **options)


def _seed(row):
    return row["seed"]


def test_nothing_is_played_twice_and_more_can_be_added(run, critic, played):
    options = {"critic": critic, "jobs": 1}
    sweep(run, settings=settings_grid((0, 2), (0.1,)), episodes=3, **options)
    assert sum(played) == 6
    before = table(run / "sweep")
    again = sweep(run, settings=settings_grid((0, 2), (0.1,)), episodes=3, **options)
    assert (sum(played), again.played) == (6, 0) and table(run / "sweep") == before
    more = sweep(run, settings=settings_grid((0, 2, 5), (0.1,)), episodes=4, **options)
    assert (sum(played), more.played) == (12, 6) and before < table(run / "sweep")
    fewer = sweep(run, settings=settings_grid((0, 5), (0.1,)), episodes=2, **options)
    assert fewer.played == 0 and [cell.episodes for cell in fewer.cells] == [2, 2]
    assert "8 more episodes of earlier sweeps" in fewer.choice


def test_a_table_cut_anywhere_becomes_whole_again(run, critic, tmp_path, rng):
    options = {"critic": critic, "settings": GRID, "episodes": 4, "jobs": 1}
    sweep(run, out=tmp_path / "whole", **options)
    whole = (tmp_path / "whole/table.jsonl").read_bytes()
    for length in [0, *rng.integers(1, len(whole), 4)]:
        (tmp_path / "whole/table.jsonl").write_bytes(whole[:length])
        lines = whole[:length].count(b"\n")
        assert sweep(run, out=tmp_path / "whole", **options).played == 36 - lines
        assert table(tmp_path / "whole") == set(whole.decode().splitlines())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seed": 4}, "seed was 0, got 4"),
        ({"critic": "other"}, "critic was"),
        ({"run": "other"}, "checkpoint 5 was"),
        ({"env_id": "InvertedPendulum-v4"}, "env_id was 'InvertedPendulum-v5', got 'InvertedPendulum-v4'"),
        ({"candidates": Candidates(3)}, "candidates was None"),
    ],
)
def test_a_folder_of_another_sweep_is_refused(run, critic, make_critic, tmp_path, change, complaint):
    options = {
        "critic": critic,
        "settings": settings_grid((2,)),
        "jobs": 1,
        "episodes": 2,
        "checkpoints": "all",
    }
    sweep(run, out=tmp_path / "out", **options)
    before = table(tmp_path / "out")
    if change.get("critic"):
        change = {"critic": make_critic("other", seed=8)}
    if change.pop("run", None):
        (run / "checkpoints/5/model.safetensors").write_bytes(
            (run / "checkpoints/9/model.safetensors").read_bytes()
        )
    with pytest.raises(ValueError, match="is of another sweep") as error:
        sweep(run, out=tmp_path / "out", **options | change)
    assert complaint in str(error.value) and table(tmp_path / "out") == before


def test_clearly_worse_settings_are_stopped_and_the_plain_policy_never(run, critic, tmp_path):
    options = {"critic": critic, "settings": GRID, "episodes": 12, "stop_worse": True, "block": 4}
    result = sweep(run, out=tmp_path / "a", jobs=1, **options)
    dropped = [cell for cell in result.cells if cell.dropped]
    assert dropped and result.best.dropped is None and result.best.episodes == 12
    for cell in result.cells:
        assert cell.episodes == (12 if cell.dropped is None else cell.dropped[0])
        assert not (cell.dropped and cell.cell.setting.is_plain)
    assert all(cell.dropped[1][1] < 0 for cell in dropped)
    # The same decisions by two processes, and after an interruption; the same rows as without stopping.
    sweep(run, out=tmp_path / "b", jobs=2, **options)
    lines = (tmp_path / "a/table.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/sweep.json").write_text((tmp_path / "a/sweep.json").read_text())
    (tmp_path / "c/table.jsonl").write_text("".join(lines[: len(lines) // 2]))
    sweep(run, out=tmp_path / "c", jobs=1, **options)
    sweep(run, out=tmp_path / "full", jobs=1, **options | {"stop_worse": False})
    assert table(tmp_path / "a") == table(tmp_path / "b") == table(tmp_path / "c") < table(tmp_path / "full")


def test_the_best_setting_is_confirmed_on_seeds_that_had_no_part_in_the_choice(run, critic, tmp_path):
    options = {"critic": critic, "settings": GRID, "episodes": 4, "seed": 10, "confirm": 3, "jobs": 1}
    result = sweep(run, **options)
    again = sweep(run, **options)
    c = result.confirmation
    assert (c.first_seed, c.episodes, c.best.cell, c.best.episodes) == (14, 3, result.best.cell, 3)
    assert c == again.confirmation and again.played == 0 and result.played == 36
    (direct,) = evaluate(
        load_policy(run),
        critic=load_critic(critic),
        settings=[c.best.cell.setting],
        episodes=3,
        seed=14,
        max_envs=8,
        workers=1,
    ).settings
    assert c.best.returns == summarize(np.array(direct.returns))
    fresh = {json.loads(line)["seed"] for line in (run / "sweep/confirm.jsonl").read_text().splitlines()}
    assert fresh == {14, 15, 16} and not fresh & {json.loads(line)["seed"] for line in table(run / "sweep")}


def test_candidates_are_chosen_by_the_critic_of_the_run_where_none_is_given(run, tmp_path):
    with pytest.raises(OSError, match="holds none"):
        sweep(run, candidates=Candidates(2), episodes=1, jobs=1, out=tmp_path / "out")


def test_targets_are_cells(run, tmp_path):
    result = sweep(run, target_returns=[1.0, 400.0, 1.0], episodes=2, jobs=1)
    assert [cell.cell.label for cell in result.cells] == ["plain policy target=1", "plain policy target=400"]
    assert len(table(run / "sweep")) == 4


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"settings": settings_grid((2,))}, "critic: AG n=2 lr=0.03 needs a critic"),
        ({"history_lengths": [1]}, "history_lengths: DecisionTransformer predicts no return"),
        ({"episodes": 0}, "episodes: expected a whole number of at least 1, got 0"),
        ({"confirm": -1}, "confirm: expected a whole number of at least 0"),
        ({"executor": "slurm"}, 'executor: expected "local" or "ray"'),
        ({"jobs": 0}, "jobs: expected"),
        ({"ray_address": "x"}, 'ray_address: is for executor "ray"'),
        ({"checkpoints": [4]}, "has none of step 4"),
        ({"env_id": "Hopper-v5"}, "actions: "),
    ],
)
def test_bad_arguments_get_one_sentence(run, options, complaint):
    with pytest.raises((ValueError, OSError), match=complaint):
        sweep(run, **{"jobs": 1, "episodes": 2} | options)


@pytest.mark.parametrize(
    ("sizes", "theirs"),
    [({"state_dim": 7}, r"\(7, 1, None\)"), ({"observation_keys": ["a"]}, r"\(4, 1, \['a'\]\)")],
)
def test_a_critic_of_another_task_is_refused_before_anything_is_played(
    run, make_critic, played, sizes, theirs
):
    """Whether a setting refines by it or not."""
    critic = make_critic("other", **sizes)
    for settings in (GRID, [AGSetting()]):
        with pytest.raises(
            ValueError, match=rf"^critic: expected the policy's .* \(4, 1, None\), got {theirs}"
        ):
            sweep(run, critic=critic, settings=settings, episodes=2, jobs=1)
    assert played == [] and not (run / "sweep").exists()


def test_a_setting_that_cannot_be_played_costs_itself_only(run, critic):
    settings = [AGSetting(), AGSetting(2, 0.1, reduce="mean"), AGSetting(2, reduce=7)]
    result = sweep(run, critic=critic, settings=settings, episodes=2, jobs=1)
    (failure,) = result.failures
    assert "reduce=7, seeds 0..1: reduce: expected a member in 0..1" in failure
    assert [cell.episodes for cell in result.cells] == [2, 2, 0]


@pytest.mark.parametrize(("order", "failures"), [("once", 0), ("always", 1)])
def test_a_worker_that_dies_costs_at_most_its_own_job(run, tmp_path, monkeypatch, order, failures):
    monkeypatch.setenv("MORTAL_ENV", str(tmp_path / "order"))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr("dtag_fast.sweep.planning.EPISODES_PER_JOB", 2)
    (tmp_path / "order").write_text(order)
    result = sweep(run, env_id=MORTAL, episodes=6, jobs=2)
    assert len(result.failures) == failures and result.cells[0].episodes == 6 - 2 * failures
    if failures:
        assert "seeds 2..3: its process ended with code -9, twice" in result.failures[0]
        (tmp_path / "order").unlink()
        assert sweep(run, env_id=MORTAL, episodes=6, jobs=2).played == 2


def test_episodes_that_their_environment_ends_are_reported_and_played_again_by_the_next_sweep(
    run, critic, tmp_path, monkeypatch
):
    how = tmp_path / "how"
    how.write_text("raises")
    monkeypatch.setenv("MORTAL_ENV", str(how))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    options = {
        "critic": critic,
        "settings": [AGSetting(), AGSetting(2, 0.1)],
        "episodes": 4,
        "env_id": MORTAL,
        "jobs": 1,
    }
    options |= {"out": tmp_path / "sweep", "checkpoints": [5]}
    result = sweep(run, **options)
    assert len(result.failures) == 2 and result.best is None
    for sentence in result.failures:
        assert "seed 2" in sentence and "step 2: RuntimeError: the simulator gave up" in sentence
    assert [cell.episodes for cell in result.cells] == [3, 3]
    rows = [json.loads(line) for line in table(tmp_path / "sweep")]
    assert sorted(row["seed"] for row in rows if row["error"] is None) == [0, 0, 1, 1, 3, 3]
    failed = [row for row in rows if row["error"] is not None]
    assert [(row["seed"], row["episode_return"], row["length"]) for row in failed] == [(2, None, None)] * 2
    how.unlink()
    result = sweep(run, **options)
    assert (result.played, result.failures) == (2, [])
    assert [cell.returns.mean for cell in result.cells] == [3.0, 3.0]
    if arrow.is_installed():
        parquet = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "sweep/table.parquet")
        assert parquet.num_rows == 8 and parquet["error"].null_count == 8


def test_a_sweep_of_which_nothing_can_be_finished_says_so_and_is_no_traceback(run, tmp_path, monkeypatch):
    how = tmp_path / "how"
    how.write_text("raises")
    monkeypatch.setenv("MORTAL_ENV", str(how))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    options = {"episodes": 1, "seed": 2, "env_id": MORTAL, "jobs": 1, "checkpoints": [5]}
    result = sweep(run, out=tmp_path / "sweep", **options)
    assert len(result.failures) == 1 and result.cells[0].episodes == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_environment_that_hangs_costs_its_episode(run, critic, tmp_path, jobs):
    """It hangs in the third step of seed 1, under every setting."""
    settings = [AGSetting(), AGSetting(2, 0.1)]
    options = {"critic": critic, "settings": settings, "episodes": 3, "checkpoints": [5]}
    options |= {"env_id": f"faulty_env:{faulty_env.HANGING_ID}", "out": tmp_path / "hangs"}
    result = sweep(run, jobs=jobs, env_timeout=1.5, **options)
    assert [cell.episodes for cell in result.cells] == [2, 2] and len(result.failures) == 2
    for sentence in result.failures:
        assert "seed 1" in sentence and "step 3: TookTooLong: the environment took longer than" in sentence
    found = [json.loads(line) for line in table(tmp_path / "hangs")]
    finished = {(r["setting"], r["seed"]): r["episode_return"] for r in found if r["error"] is None}
    options |= {"env_id": f"faulty_env:{faulty_env.WAITING_ID}", "out": tmp_path / "waits"}
    sweep(run, jobs=1, **options)  # the same environment, in this process and without hanging
    theirs = [json.loads(line) for line in table(tmp_path / "waits")]
    theirs = {(r["setting"], r["seed"]): r["episode_return"] for r in theirs}
    assert len(finished) == 4 and finished == {key: theirs[key] for key in finished}


def test_a_checkpoint_written_anew_is_read_anew(run, critic, make_critic, tmp_path):
    asked = {"critic": critic, "settings": settings_grid((0,), (0.1,)), "episodes": 2, "jobs": 1}
    sweep(run, **asked, out=tmp_path / "first")
    file = "checkpoints/7/critic.safetensors"
    shutil.copy(make_critic("other", seed=8) / file, critic / file)
    sweep(run, **asked, out=tmp_path / "second")
    q = [{json.loads(line)["mean_q_0"] for line in table(tmp_path / name)} for name in ("first", "second")]
    assert not q[0] & q[1]
