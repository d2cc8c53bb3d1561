"""The table and the curves of fine-tuning studies, by numbers worked out by hand."""

import importlib
import json

import numpy as np
import pytest

from dtag_fast.experiments.over_seeds import half_width, mean_curve


@pytest.fixture
def results(sources, monkeypatch):
    monkeypatch.syspath_prepend(str(sources))
    return importlib.import_module("tools.finetune_results")


MACHINE = {"cpu": "Some CPU", "generation": "", "cores": 2, "simd": "AVX2"}
NETWORK = {"context_len": 5, "d_model": 64, "n_layer": 2, "batch_size": 32}


def run(algorithm: str, seed: int, points: dict[int, float], scored: bool = True) -> dict:
    """A run's record with these returns at these steps; scores are a tenth of them."""
    evaluations = [
        {"env_steps": step, "return_mean": y, "normalized_score": y / 10 if scored else None}
        for step, y in points.items()
    ]
    return {
        "algorithm": algorithm,
        "seed": seed,
        "dataset": {"dataset_id": "local/some/data-v0", "env_id": "Some-v0"},
        "evaluations": evaluations,
        "offline": {"policy_updates": 1000},
        "online": {"policy_updates": 2000, "env_steps": max(points), "config": NETWORK},
        "machine": MACHINE,
    }


@pytest.fixture
def write(tmp_path):
    def write(*runs, name="result.json"):
        file = tmp_path / name
        file.write_text(json.dumps({"format": 1, "settings": {"eval_episodes": 7}, "runs": runs}))
        return file

    return write


def three(algorithm, before, after, **options):
    pairs = enumerate(zip(before, after, strict=True))
    return [run(algorithm, seed, {0: y, 40_000 + seed: z}, **options) for seed, (y, z) in pairs]


def test_table(results, write):
    """t of two degrees at 0.975 is 4.3027: 1, 2, 3 have the mean 2 and half an interval of 2.484."""
    odt = three("odt", (10, 20, 30), (30, 30, 30))
    td3 = three("td3-odt", (10, 20, 30), (40, 50, 60))
    table = results.table(write(*td3, *odt))
    rows = [line for line in table.splitlines() if line.startswith("| some/data-v0")]
    about = "3 x 7 | 1,000 + 2,000 | 40,001"
    assert rows == [
        f"| some/data-v0 | odt | {about} | 2.0 (-0.5 to 4.5) | 3.0 (3.0 to 3.0) | +1.0 (-1.5 to +3.5) |  "
        "| 2.5 (1.3 to 3.7) |  |",
        f"| some/data-v0 | td3-odt | {about} | 2.0 (-0.5 to 4.5) | 5.0 (2.5 to 7.5) | +3.0 (+3.0 to +3.0) "
        "| +2.0 (-0.5 to +4.5) | 3.5 (1.0 to 6.0) | +1.0 (-0.2 to +2.2) |",
    ]
    assert "Normalised score of the mean action" in table
    assert table.endswith("K=5, d=64, n_layer=2, 32 windows an update. 2-core Some CPU (AVX2).")


def test_pairs_are_of_the_same_seed_and_one_seed_has_no_interval(results, write):
    odt = [run("odt", 1, {0: 10, 9: 40}), run("odt", 2, {0: 10, 9: 60})]
    table = results.table(write(run("td3-odt", 1, {0: 10, 9: 50}), *odt))
    assert "| td3-odt | 1 x 7 | 1,000 + 2,000 | 9 | 1.0 | 5.0 | +4.0 | +1.0 | 3.0 | +0.5 |" in table
    alone = results.table(write(run("td3-odt", 1, {0: 10, 9: 50})))
    assert "| 1.0 | 5.0 | +4.0 |  | 3.0 |  |" in alone


def test_over_the_run_is_weighted_by_steps(results, write):
    """1 from step 0 to 30, then up to 5 at 40: (30 x 1 + 10 x 3) / 40."""
    assert "| 1.5 |  |" in results.table(write(run("odt", 0, {0: 10, 30: 10, 40: 50})))


def test_returns_where_one_file_has_no_references(results, write):
    files = [
        write(*three("odt", (1, 2, 3), (1, 2, 3)), name="a.json"),
        write(*three("odt", (1, 2, 3), (1, 2, 3), scored=False), name="b.json"),
    ]
    table = results.table(*files)
    assert table.count("| 2.0 (-0.5 to 4.5) | 2.0 (-0.5 to 4.5) | +0.0 (+0.0 to +0.0) |") == 2
    assert "Return of the mean action" in table


@pytest.mark.parametrize(
    "content, sentence",
    [
        ({"runs": []}, "expected a result file of tools.finetune_study"),
        ([], "expected a result file of tools.finetune_study"),
        ({"settings": {}, "runs": []}, "expected at least one run that is over, got none"),
        (
            {"settings": {}, "runs": [run("odt", 3, {5: 1, 9: 2})]},
            r"odt, seed 3: expected evaluations at step 0 and later, got them at \[5, 9\]",
        ),
    ],
)
def test_a_file_that_says_nothing_is_refused(results, tmp_path, content, sentence):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        results.table(tmp_path / "a.json")


def test_panels(results, write):
    file = write(*three("odt", (10, 20, 30), (30, 30, 30)), run("td3-odt", 0, {0: 10, 7: 20, 9: 50}))
    panels, name = results.panels([file])
    odt, td3 = panels["some/data-v0"]
    assert name == "normalised score"
    assert (odt.label, list(odt.x)) == ("odt", [0, 40_000])  # the seeds end at 40,000 to 40,002
    assert (td3.label, list(td3.x), list(td3.y), td3.low) == ("td3-odt", [0, 7, 9], [1, 2, 5], None)
    with pytest.raises(ValueError, match="files: expected one of some/data-v0, got two; draw them apart"):
        results.panels([file, file])


def test_mean_over_curves_of_other_places():
    """Of y = x from 0 to 10 and y = 3 x from 0 to 8: looked at in 0, 4 and 8."""
    curve = mean_curve("a", [([0, 2], [1, 5]), ([0, 2], [3, 4]), ([0, 2], [2, 9])], band="range")
    assert [c.tolist() for c in (curve.y, curve.low, curve.high)] == [[2, 6], [1, 4], [3, 9]]
    curve = mean_curve("a", [([0, 2, 5, 10], [0, 2, 5, 10]), ([0, 1, 8], [0, 3, 24])])
    np.testing.assert_allclose(curve.x, [0, 4, 8])
    np.testing.assert_allclose(curve.y, [0, 8, 16])
    half = 12.7062 * np.array([0, 4, 8])  # t of one degree; the deviation over root 2 is half the difference
    np.testing.assert_allclose(curve.high - curve.y, half, rtol=1e-5)
    np.testing.assert_allclose(curve.y - curve.low, half, rtol=1e-5)


def test_curves_with_nothing_in_common_are_refused():
    with pytest.raises(ValueError, match="one curve of a begins at 5, after another ends at 4"):
        mean_curve("a", [([0, 4], [0, 0]), ([5, 6], [0, 0])])
    with pytest.raises(ValueError, match="expected at least one curve of a, got none"):
        mean_curve("a", [])


def test_half_an_interval():
    assert half_width([1.0]) is None
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5)
