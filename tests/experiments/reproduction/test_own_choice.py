"""Settings chosen on the checkpoint that is reported: by which episodes, and what is told of them."""

import json

from scored import scored, scores_of
from suites_of_data import run_small, small_lab

from dtag_fast.experiments.reproduction import own_choice, token_prediction_study

TASK = "hopper-medium"


def test_other_episodes_of_the_same_checkpoint_choose(tmp_path):
    lab = small_lab(tmp_path, hopper=("medium",))
    policy, critic = lab.training(TASK, "dt", 1), lab.training(TASK, "iql", 1)
    plain, refined = own_choice.goals(lab, TASK, "DT", policy, critic, history_lengths=(1, 3))
    work, elsewhere = plain.work, lab.refined(policy, critic, history_lengths=(1, 3))
    assert refined.work == work != elsewhere and (plain.row, refined.row) == ("plain", "refined")
    (tuning,), (other,) = work.chosen_by, elsewhere.chosen_by
    assert (tuning.policy, tuning.critic) == (policy, critic) and other.policy != policy
    assert tuning.settings == other.settings and tuning.history_lengths == (1, 3)
    assert tuning.seed == other.seed and (work.seed, work.episodes) == (elsewhere.seed, elsewhere.episodes)
    chosen_by = range(tuning.seed, tuning.seed + tuning.episodes)
    assert not set(chosen_by) & set(range(work.seed, work.seed + work.episodes))


def test_each_way_to_choose_has_its_gain_and_equal_settings_decide_nothing():
    table = {("a", "RF"): (1.0, 3.0), ("a", "RF+AG"): (4.0, 6.0)}
    table |= {("a", "RF own"): (1.0, 3.0), ("a", "RF+AG own"): (6.0, 9.0)}
    table |= {("b", "RF+AG"): (5.0, 5.0), ("b", "RF+AG own"): (5.0, 5.0)}
    table |= {("c", "RF+AG"): (5.0, None), ("c", "RF+AG own"): (4.0, None)}
    scores = scores_of(table)
    rows = own_choice.tables(scores, ["a"], ["RF"])["own-gains"].rows
    assert [cell.split()[0] for cell in rows[0]] == ["a", "+3.0", "+5.5", "+2.5"]
    claim = own_choice.claim(scores, ["a", "b", "c"], ["RF"])
    assert not claim.holds and claim.measured == "on 1 of 2 tasks and policies; half by chance"
    assert own_choice.claim(scores, ["a", "b"], ["RF"]).holds


def test_settings_stand_by_training_seed_where_they_differ():
    scores = [
        scored("a", "RF+AG own", 1, 5.0, setting="AG n=10 lr=0.1", tuning_gain=2.0),
        scored("a", "RF+AG own", 2, 5.0, setting="AG n=10 lr=0.3", tuning_gain=-1.0),
    ]
    table = own_choice.tables(scores, ["a"], ["RF"])["own-settings"]
    assert table.rows == [["a", "AG n=10 lr=0.1 (+2.0); AG n=10 lr=0.3 (-1.0)"]]
    assert "tuning seed" not in table.note


def test_a_small_run_has_a_setting_for_each_checkpoint(tmp_path):
    lab = small_lab(tmp_path, seeds=2, hopper=("medium",))
    _, made = run_small("tp-ag", token_prediction_study.STUDY, lab, tmp_path, [TASK])
    assert not made.failures and not made.missing
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    by_name = {(row["method"], row["seed"]): row for row in rows}
    for seed in (1, 2):
        # Without a return to choose, the policy alone is the same on the same episodes.
        assert by_name["RF own", seed]["score"] == by_name["RF", seed]["score"]
        assert by_name["RF+AG own", seed]["tuning_gain"] is not None
    gains = {by_name["RF+AG own", seed]["tuning_gain"] for seed in (1, 2)}
    assert len(gains) == 2 and len({by_name["RF+AG", seed]["tuning_gain"] for seed in (1, 2)}) == 1
