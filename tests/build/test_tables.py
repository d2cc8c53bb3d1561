"""Tables in the documents come from result files, and a table that does not match its file is found."""

import importlib
import json

import pytest

from dtag_fast.experiments import toy_report
from dtag_fast.experiments.toy import ToyConfig
from dtag_fast.experiments.toy_critic_error import CriticErrorConfig
from dtag_fast.experiments.toy_report import ToySuiteConfig


@pytest.fixture
def make_tables(sources, monkeypatch):
    monkeypatch.syspath_prepend(str(sources))
    return importlib.import_module("tools.make_tables")


def evaluation(seed: int, mean: float) -> dict:
    settings = [
        {"label": "plain policy", "target_return": None, "mean": mean, "normalized": {"mean": mean / 10}},
        {"label": "AG n=10 lr=0.03", "target_return": None, "mean": 2 * mean, "normalized": None},
    ]
    about = {"dataset_id": "some/data-v0", "algorithm": "dt", "seed": seed}
    newest = {"policy": {**about, "step": 20}, "episodes": 7, "settings": settings}
    older = {"policy": {**about, "step": 10}, "episodes": 7, "settings": [{**settings[0], "mean": -1.0}]}
    return {"checkpoints": [older, newest]}


def benchmark() -> dict:
    machine = {"cpu": "Some CPU", "generation": "", "cores": 2, "simd": "AVX2", "versions": {"torch": "9.9"}}
    times = {"a": {"median": 5e-5, "q25": 4e-5, "q75": 6e-5}, "b": {"median": 1e-3, "q25": 1e-3, "q75": 2e-3}}
    rows = [{"name": "refine[1-1]", "info": {"reference": "a", "variants": times}}]
    return {"date": "2026-01-02", "machine": machine, "benchmarks": rows}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "docs").mkdir()
    for name, content in {
        "one": evaluation(0, 10.0),
        "two": evaluation(1, 20.0),
        "speed": benchmark(),
        "toy": {"suite": "toy", "seeds": []},
    }.items():
        (tmp_path / f"docs/{name}.json").write_text(json.dumps(content))
    return tmp_path


def document(root, mark: str, body: str = "") -> None:
    name = mark.split()[0]
    (root / "docs/page.md").write_text(
        f"Before.\n\n<!-- table:{mark} -->\n{body}<!-- /table:{name} -->\nAfter.\n"
    )


def test_a_table_is_written_then_holds_and_then_no_longer(make_tables, root, capsys):
    document(root, "evaluation docs/one.json docs/two.json")
    assert make_tables.main(["--check"], root) == 1
    assert "docs/page.md: out of date" in capsys.readouterr().err
    assert make_tables.main([], root) == 0
    assert make_tables.main(["--check"], root) == 0
    text = (root / "docs/page.md").read_text()
    assert text.startswith("Before.\n") and text.endswith("After.\n")
    assert "| some/data-v0, dt | plain policy | 2 x 7 | 15.0 ± 5.0 | 1.5 ± 0.5 | 10, 20 |" in text
    assert "| some/data-v0, dt | AG n=10 lr=0.03 | 2 x 7 | 30.0 ± 10.0 |  | 20, 40 |" in text
    (root / "docs/page.md").write_text(text.replace("15.0", "16.0"))
    assert make_tables.main(["--check"], root) == 1


def test_benchmarks_give_times_and_ratios(make_tables, root):
    document(root, "benchmarks docs/speed.json refine")
    assert make_tables.main([], root) == 0
    text = (root / "docs/page.md").read_text()
    assert "| refine[1-1] | a | 50 us | 40 us to 60 us | 1x |" in text
    assert "|  | b | 1 ms | 1 ms to 2 ms | 20x |" in text
    assert "2-core Some CPU (AVX2), torch 9.9, 2026-01-02." in text


def test_a_suite_gives_its_table_and_its_claims(make_tables, root):
    tiny = ToySuiteConfig(
        ToyConfig(episodes=32, imitator_updates=2, critic_updates=2, prompts=4),
        CriticErrorConfig(q_rmse=(0.1, 0.8), phases=2, steps=(1, 2)),
    )
    distances = [
        {"imitator_distance": 0.45, "refined_distance": 0.01},
        {"imitator_distance": 0.5, "refined_distance": 0.25},
    ]
    seeds = [toy_report.run(seed, tiny) | distances[seed] for seed in (0, 1)]
    (root / "docs/toy.json").write_text(json.dumps({"suite": "toy", "seeds": seeds}))
    document(root, "suite docs/toy.json")
    assert make_tables.main([], root) == 0
    assert "| 1 | 0.500 | 0.2500 |" in (root / "docs/page.md").read_text()
    document(root, "suite docs/toy.json claims")
    assert make_tables.main([], root) == 0
    text = (root / "docs/page.md").read_text()
    assert "| yes | 0.450 least |" in text and "| **no** | 0.2500 most |" in text


def test_a_suite_of_trainings_gives_the_tables_it_kept(make_tables, root):
    kept = {"header": ["task", "RF"], "rows": [["hopper", "1.5"]], "text_columns": 1, "note": "Means."}
    claim = {"text": "it gains", "holds": False, "measured": "on 0 of 1"}
    content = {"suite": "gym", "tables": {"scores": kept}, "claims": [claim]}
    (root / "docs/gym.json").write_text(json.dumps(content))
    document(root, "suite docs/gym.json scores")
    assert make_tables.main([], root) == 0
    assert "| task | RF |\n| --- | ---: |\n| hopper | 1.5 |\n\nMeans." in (root / "docs/page.md").read_text()
    document(root, "suite docs/gym.json claims")
    assert make_tables.main([], root) == 0
    assert "| it gains | **no** | on 0 of 1 |" in (root / "docs/page.md").read_text()


def test_the_suites_with_their_data_and_how_many_claims_hold(make_tables, root):
    claims = [{"text": "it gains", "holds": holds, "measured": ""} for holds in (True, False, True)]
    about = {
        "gym": {"tasks": ["a", "b"], "training_seeds": [1, 2]},
        "toy": {"training_seeds": [0]},
        "other": {},
    }
    for name, content in about.items():
        (root / f"docs/{name}.json").write_text(json.dumps({"suite": name, "claims": claims} | content))
    document(root, "suites docs/gym.json docs/toy.json docs/other.json")
    assert make_tables.main([], root) == 0
    text = (root / "docs/page.md").read_text()
    assert "| [gym](#gym) | a, b | 2 | 2 of 3 |" in text
    assert "| [toy](#toy) | made by the suite | 1 | 2 of 3 |" in text
    assert "| [other](#other) | made by the suite | - | 2 of 3 |" in text


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ("evaluation docs/none.json", "no file docs/none.json"),
        ("evaluation", "expected a result file"),
        ("nonsense docs/one.json", "expected one of"),
        ("evaluation docs/one.json docs/one.json", "training seed twice"),
        ("benchmarks docs/speed.json other", "no benchmark begins with other"),
        ("suite docs/toy.json verdicts", "expected one of claims, table after toy.json, got verdicts"),
    ],
)
def test_a_table_that_cannot_be_made_is_refused(make_tables, root, capsys, mark, reason):
    document(root, mark)
    assert make_tables.main(["--check"], root) == 1
    error = capsys.readouterr().err
    assert error.startswith("docs/page.md: ") and reason in error


def test_a_mark_without_its_end_is_refused(make_tables, root, capsys):
    (root / "docs/page.md").write_text("<!-- table:evaluation docs/one.json -->\n")
    assert make_tables.main(["--check"], root) == 1
    assert "has no <!-- /table" in capsys.readouterr().err
