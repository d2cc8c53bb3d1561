"""The demonstration end to end at a fraction of its size, and what it reuses."""

import json

import numpy as np
import pytest

from dtag_fast.cli import demo as command
from dtag_fast.cli.main import main
from dtag_fast.experiments import demo
from dtag_fast.experiments.demo import run_demo
from dtag_fast.experiments.demo_config import DemoConfig
from dtag_fast.experiments.toy import ToyConfig

TINY = DemoConfig(
    toy=ToyConfig(episodes=32, imitator_updates=2, critic_updates=2, prompts=4),
    toy_seeds=1,
    collect_steps=900,
    context_len=2,
    d_model=8,
    n_layer=1,
    policy_batch=4,
    dt_updates=3,
    reinformer_updates=3,
    critic_updates=3,
    episodes=2,
    sweep_steps=(0, 1, 3),
    sweep_episodes=2,
)


class Notes:
    """A reporter that remembers."""

    def __init__(self):
        self.stages, self.said, self.last = [], [], {}

    def stage(self, title):
        self.stages.append(title)

    def say(self, text):
        self.said.append(text)

    def progress(self, task, done, total):
        assert 0 <= done <= total
        self.last[task] = (done, total)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    notes = Notes()
    return out, run_demo(TINY, out, notes), notes


def test_every_part_is_there(finished):
    out, results, notes = finished
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    names = ("toy", "score_against_n", "q_gain_against_return_gain")
    assert results["plots"] == [f"plots/{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert all((out / file).stat().st_size > 5_000 for file in results["plots"])
    assert len(notes.stages) == 6 and not notes.said
    assert all(done == total for done, total in notes.last.values())
    assert {"seeds", "steps", "dt", "reinformer", "iql"} < notes.last.keys()


def test_rows_are_consistent(finished):
    _, results, _ = finished
    references = results["references"]
    assert [(row["policy"], row["steps"]) for row in results["table"]] == [
        (policy, n) for policy in ("dt", "reinformer") for n in (0, TINY.ag_steps)
    ]
    assert [(row["policy"], row["steps"]) for row in results["sweep"]] == [
        (policy, n) for policy in ("dt", "reinformer") for n in TINY.sweep_steps
    ]
    for row in results["table"] + results["sweep"]:
        returns = np.array(row["returns"])
        assert len(returns) == len(row["seeds"]) == 2 and ((returns >= 0) & (returns <= 300)).all()
        assert row["return"]["mean"] == pytest.approx(returns.mean())
        scale = (references["ref_max_score"] - references["ref_min_score"]) / 100
        score = (returns.mean() - references["ref_min_score"]) / scale
        assert row["score"]["mean"] == pytest.approx(score)
        assert row["q_gain"] >= 0
        if row["steps"] == 0:
            assert row["q_gain"] == row["return_gain"]["mean"] == 0
    # The sweep's episodes are others than those of the table.
    assert not {s for row in results["table"] for s in row["seeds"]} & {
        s for row in results["sweep"] for s in row["seeds"]
    }


def test_a_second_run_makes_nothing_anew_and_says_so(finished, monkeypatch):
    out, results, _ = finished
    for function in ("run_toy", "make_pointmaze", "compare_policies"):
        monkeypatch.setattr(demo, function, lambda *_, **__: pytest.fail("made anew"))
    monkeypatch.setattr(demo, "train_all", lambda jobs, _: None if not jobs else pytest.fail("trained anew"))
    notes = Notes()
    again = run_demo(TINY, out, notes)
    assert len(notes.said) == 7 and all("taken from an earlier run" in text for text in notes.said)
    assert json.dumps({**again, "seconds": 0}) == json.dumps({**results, "seconds": 0})


def test_other_settings_redo_what_depends_on_them_only(finished, tmp_path, monkeypatch):
    import shutil
    from dataclasses import replace

    source, _, _ = finished
    out = tmp_path / "out"
    shutil.copytree(source, out, symlinks=True)
    jobs = []
    monkeypatch.setattr(demo, "train_all", lambda todo, _: jobs.extend(todo))
    monkeypatch.setattr(demo, "run_toy", lambda *_, **__: pytest.fail("the toy does not depend on this"))
    monkeypatch.setattr(demo, "make_pointmaze", lambda *_, **__: pytest.fail("nor does the data"))
    monkeypatch.setattr(demo, "compare_policies", lambda *_, **__: (_ for _ in ()).throw(StopIteration))
    notes = Notes()
    with pytest.raises((StopIteration, RuntimeError)):
        run_demo(replace(TINY, critic_updates=5), out, notes)
    assert [job.name for job in jobs] == ["iql"] and not jobs[0].resume
    assert any(text.startswith("iql: an earlier run differs in updates") for text in notes.said)
    assert any(text.startswith("evaluation.json: an earlier run differs in runs") for text in notes.said)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mine.txt").write_text("")
    (tmp_path / "toy.json").write_text("[]")
    with pytest.raises(ValueError, match=r"out: .*toy.json was not made by this experiment"):
        run_demo(TINY, tmp_path, Notes())
    assert (tmp_path / "datasets" / "mine.txt").exists() and (tmp_path / "toy.json").read_text() == "[]"


def test_command_prints_table_and_says_that_quick_numbers_mean_nothing(finished, monkeypatch, capsys):
    out, results, _ = finished
    monkeypatch.setattr(demo, "run_demo", lambda *_: results)
    assert main(["demo", "--quick", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "trained far too little" in printed
    for text in ("Decision Transformer", "Reinformer", "with AG, n = 10", "D4RL score", "results.json"):
        assert text in printed
    assert main(["demo", "--out", str(out)]) == 0
    assert "trained far too little" not in capsys.readouterr().out


def test_log_lines_are_few(capsys):
    from rich.console import Console

    with command._LineReporter(Console(width=80)) as reporter:
        reporter.stage("Training")
        for done in range(1, 10_001):
            reporter.progress("dt", done, 10_000)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "dt: 10,000 of 10,000" in lines[-1]
