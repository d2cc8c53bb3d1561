"""What is told of token prediction and of policy gradients, against cases worked out by hand."""

import json

import pytest
from scored import scored, scores_of
from suites_of_data import run_small, small_lab

from dtag_fast.experiments.reproduction import policy_gradient_study, token_prediction_study
from dtag_fast.experiments.reproduction.policy_gradient_study import GRADIENTS, Trained

TASK = "hopper-medium"


@pytest.mark.parametrize(("both", "holds"), [(9.0, True), (5.0, False)])
def test_both_are_best_where_their_mean_is(both, holds):
    table = {(TASK, "DT"): (1.0, 3.0), (TASK, "RF"): (4.0, 4.0), (TASK, "DT+AG"): (6.0, 6.0)}
    table |= {(TASK, "RF+AG"): (both, both)}
    found = token_prediction_study.report(scores_of(table), [TASK])
    claims = {claim.text.split()[0]: claim for claim in found.claims}
    assert claims["RF"].holds is holds and claims["RF"].measured == f"on {int(holds)} of 1"
    assert claims["ADT"].measured == "on 0 of 0" and not claims["ADT"].holds


def test_elastic_lengths_end_at_what_the_policy_was_trained_on(tmp_path):
    assert token_prediction_study.elastic_lengths(small_lab(tmp_path)) == (1, 3, 5)


def rows(table) -> list[Trained]:
    return [Trained(score, 1.5, 0.2, 0.1 * score.seed) for score in scores_of(table)]


def test_divergence_is_counted_and_its_signs_are_means():
    table = {(TASK, "RF+PG 1"): (1.0, 9.0), (TASK, "RF+AG"): (20.0, 21.0)}
    table |= {(TASK, f"RF+PG {weight}"): (2.0, 2.0) for weight in ("0.3", "3")}
    found = policy_gradient_study.report(
        [*rows(table), Trained(scored(TASK, "RF+PG 1", 3, None), None, None, None)], [TASK]
    )
    signs = {row[1]: row[2:] for row in found.tables["divergence"].rows}
    assert signs["RF+PG 1"] == ["1.5", "0.2", "0.15", "1 of 3"] and signs["DT+PG 1"] == ["-"] * 3 + ["0 of 0"]
    assert [claim.holds for claim in found.claims] == [True, True]
    scores = dict(zip(found.tables["scores"].header, found.tables["scores"].rows[0], strict=True))
    assert scores["RF+PG 1"] == "5.0 ± 5.7, 1 of 3 diverged"


def test_more_trainings_that_diverge_are_less_stable_whatever_the_others_do():
    table = {(TASK, "RF+PG 1"): (5.0, None, 5.0), (TASK, "RF+AG"): (1.0, 9.0, 30.0)}
    table |= {(TASK, f"RF+PG {weight}"): (None, None, None) for weight in ("0.3", "3")}
    unstable, better = policy_gradient_study.report(rows(table), [TASK]).claims
    assert unstable.holds and better.holds
    table[TASK, "RF+AG"] = (1.0, None, 9.0)
    unstable, _ = policy_gradient_study.report(rows(table), [TASK]).claims
    assert not unstable.holds and unstable.measured.startswith("on 0 of 1 ")
    table |= {(TASK, "RF+PG 1"): (None,) * 3, (TASK, "RF+AG"): (-5.0,) * 3}
    unstable, better = policy_gradient_study.report(rows(table), [TASK]).claims
    assert unstable.holds and better.holds


def test_a_small_run_reads_what_the_trainings_logged(tmp_path):
    lab = small_lab(tmp_path, seeds=1, hopper=("medium",))
    _, made = run_small("pg-ag", policy_gradient_study.STUDY, lab, tmp_path, [TASK])
    assert not made.failures and not made.missing
    found = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    signs = {row["score"]["method"]: (row["q"], row["action_distance"], row["at_bounds"]) for row in found}
    assert all(None not in signs[method] for method in GRADIENTS)
    assert all(signs[method] == (None,) * 3 for method in ("DT", "RF+AG", "AWAC", "QT", "QT, 50 actions"))
    scores = {row["score"]["method"]: row["score"]["mean_return"] for row in found}
    assert scores["QT"] != scores["QT, 50 actions"]
    assert 0 <= signs["RF+PG 1"][2] <= 1


def test_a_small_run_of_token_prediction(tmp_path):
    lab = small_lab(tmp_path, seeds=1, hopper=("medium",))
    _, made = run_small("tp-ag", token_prediction_study.STUDY, lab, tmp_path, [TASK])
    assert not made.failures and not made.missing
    assert [row[0] for row in made.findings.tables["scores"].rows] == [TASK]
