"""The study of parts of a dataset: which episodes, what is chosen on what, and a whole run on tiny data."""

import json
from dataclasses import replace

import pytest
from suites_of_data import run_small, small_lab

from dtag_fast.data.catalog import minari_root_at
from dtag_fast.experiments.reproduction import diversity_study
from dtag_fast.experiments.reproduction.diversity_study import (
    GAINS,
    METHODS,
    STUDY,
    PartScore,
    gain_curves,
    goals,
    grows_with_data,
    on_part,
    part_scores,
)
from dtag_fast.experiments.reproduction.work import Shelf

TASK = "hopper-medium-replay"


@pytest.fixture
def lab(tmp_path):
    return small_lab(tmp_path, seeds=2, hopper=("medium-replay",))


def test_each_training_draws_its_part_and_settings_are_chosen_on_that_of_the_tuning_seed(lab):
    work = next(g.work for g in goals(lab, [TASK]) if (g.method, g.seed) == ("RF+AG 0.1", 2))
    part = work.policy.data
    assert (part.fraction, part.seed) == (0.1, 2) and work.critic.data == part
    (tuning,) = work.chosen_by
    for training in (tuning.policy, tuning.critic):
        assert training.seed == 0 and training.data == replace(part, seed=0)


def test_the_whole_set_and_its_trainings_are_those_of_the_other_suites(lab):
    work = next(g.work for g in goals(lab, [TASK]) if (g.method, g.seed) == ("DT 1", 2))
    assert work == lab.refined(lab.training(TASK, "dt", 2), lab.training(TASK, "iql", 2))


def test_parts_of_other_seeds_hold_other_episodes(lab, tmp_path):
    work = {g.seed: g.work for g in goals(lab, [TASK]) if g.method == "DT 0.1"}
    with minari_root_at(tmp_path / "datasets"):
        stores = [work[seed].policy.data.load(Shelf(tmp_path)) for seed in (1, 2, 1)]
    assert len({store.num_episodes for store in stores}) == 1
    first, other, again = (store.episode_returns.tolist() for store in stores)
    assert first == again != other


def part_score(method: str, fraction: float, seed: int, value: float, task: str = TASK) -> PartScore:
    name = on_part(method, fraction)
    numbers = (value, value, None, "", 2, None)
    return PartScore(
        task, name, seed, *numbers, fraction=fraction, data_episodes=int(100 * fraction), data_steps=seed
    )


def rows_of(gains: dict[float, tuple[float, float]], task: str = TASK) -> list[PartScore]:
    """Fraction -> gain of Action Gradient on DT for seeds 1 and 2, over a score of 10 and 20."""
    return [
        part_score(method, fraction, seed, 10 * seed + more, task)
        for fraction, both in gains.items()
        for seed, gain in enumerate(both, start=1)
        for method, more in (("DT", 0), ("DT+AG", gain))
    ]


@pytest.mark.parametrize(
    "gains, holds",
    (
        # Differences 2.0 and 2.2: their mean is above 12.7 standard errors of 0.1.
        ({0.1: (1, 2.2), 0.5: (9, 9), 1.0: (3, 4.4)}, True),
        ({0.1: (1, 2.2), 0.5: (9, 9), 1.0: (3, 5)}, False),
        ({0.1: (3, 4.4), 0.5: (9, 9), 1.0: (1, 2.2)}, False),
    ),
)
def test_the_claim_compares_the_whole_set_with_the_smallest_part(gains, holds):
    claim = grows_with_data(rows_of(gains), [TASK], "AG without TP: DT+AG - DT")
    assert claim.holds is holds
    means = (sum(gains[fraction]) / 2 for fraction in (1.0, 0.1))
    assert "{} {:+.1f} against {:+.1f}".format(TASK, *means) in claim.measured


def test_the_claim_counts_training_seeds_and_not_tasks():
    # By seed 2.0 and 2.2 in the mean over the tasks; the four differences themselves are 1.5 to 2.7.
    rows = rows_of({0.1: (1, 1), 1.0: (2.5, 2.7)}) + rows_of({0.1: (1, 1), 1.0: (3.5, 3.7)}, "other")
    claim = grows_with_data(rows, [TASK, "other"], "AG without TP: DT+AG - DT")
    assert claim.holds and claim.measured.startswith("difference +2.1 (+0.8 to +3.4); ")


def test_a_claim_without_numbers_or_with_one_seed_does_not_hold():
    assert not grows_with_data(rows_of({1.0: (1, 2)}), [TASK], "AG with TP: RF+AG - RF").holds
    one = [row for row in rows_of({0.1: (1, 1), 1.0: (3, 3)}) if row.seed == 1]
    claim = grows_with_data(one, [TASK], "AG without TP: DT+AG - DT")
    assert not claim.holds and "difference +2.0;" in claim.measured


def test_curves_are_means_over_seeds_that_have_all_fractions():
    rows = rows_of({0.1: (1, 3), 0.5: (2, 6), 1.0: (3, 3)})
    (curve,) = gain_curves(rows, TASK)
    assert list(curve.x) == [0.1, 0.5, 1.0] and list(curve.y) == [2, 4, 3]
    assert list(curve.low) == [1, 2, 3] and list(curve.high) == [3, 6, 3]
    less = [row for row in rows if (row.fraction, row.seed) != (0.5, 2)]
    assert list(gain_curves(less, TASK)[0].y) == [1, 2, 3]


def test_a_method_without_a_number_is_a_dash():
    (row,) = part_scores([part_score("DT", 1.0, 1, 5.0)], [TASK]).rows
    assert row == [TASK, "1", "100", "1", "5.0", "-", "-", "-"]


def test_a_small_run(tmp_path, monkeypatch):
    monkeypatch.setattr(diversity_study, "FRACTIONS", (0.1, 1.0))
    lab = small_lab(tmp_path, seeds=1, hopper=("medium-replay",))
    plan, made = run_small("diversity", STUDY, lab, tmp_path, [TASK])
    assert not made.failures and not made.missing
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [
        on_part(m, f) for f in (0.1, 1) for m in ("DT", "DT+AG", "RF", "RF+AG")
    ]
    with minari_root_at(tmp_path / "datasets"):
        whole = lab.data(TASK).load(Shelf(tmp_path / "runs"))
    sizes = {row["fraction"]: (row["data_episodes"], row["data_steps"]) for row in rows}
    assert sizes[1.0] == (whole.num_episodes, 1500)
    assert sizes[0.1][0] == round(0.1 * whole.num_episodes) and sizes[0.1][1] < 500

    # DT, Reinformer and IQL on each part, for the reported and for the tuning seed.
    assert plan.work.kinds()["trainings"][0] == 2 * 2 * 3
    assert made.findings.tables["scores"].header == ["task", "fraction", "episodes", "steps", *METHODS]
    assert [row[1] for row in made.findings.tables["gains"].rows] == ["0.1", "1"]
    assert len(made.findings.tables["gains"].header) == 2 + len(GAINS) and len(made.findings.claims) == 2
    assert (tmp_path / "out/figures/gain-against-fraction.png").is_file()
