"""Sweeps with a gate on what the critic's members disagree about."""

import json
import shutil

import numpy as np
import pytest

from dtag_fast.data.catalog import minari_root_at
from dtag_fast.data.random_policy import make_random
from dtag_fast.rollout import AGSetting, evaluate
from dtag_fast.rollout.statistics import summarize
from dtag_fast.sweep import sweep
from dtag_fast.training import load_gated, load_policy

SETTINGS = [AGSetting(), AGSetting(5, 0.3), AGSetting(20, 0.3)]
DATA = "local/pendulum/random-v0"


@pytest.fixture
def critic(make_critic, tmp_path):
    with minari_root_at(tmp_path / "minari"):
        make_random("InvertedPendulum-v5", 300, 0, DATA)
        yield make_critic(dataset_id=DATA)


def table(folder) -> set[str]:
    return set((folder / "table.jsonl").read_text().splitlines())


@pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow autograd reference")
def test_rows_are_those_of_evaluate_with_the_gate(run, critic):
    result = sweep(run, critic=critic, gate=0.1, settings=SETTINGS, episodes=4, seed=3, jobs=1)
    gated = load_gated(critic, 0.1)
    assert result.gate_limit == gated.critic.limit
    summary = json.loads((run / "sweep/summary.json").read_text())
    assert summary["gate_limit"] == gated.critic.limit
    for cell in result.cells:
        options = {"critic": gated, "settings": [cell.cell.setting], "episodes": 4, "seed": 3, "workers": 1}
        (theirs,) = evaluate(load_policy(run), **options).settings
        assert cell.returns == summarize(np.array(theirs.returns))
        if not cell.cell.setting.is_plain:
            assert cell.mean_q_gain == pytest.approx(np.mean(theirs.mean_q_gain), abs=1e-6)
    free = sweep(run, critic=critic, settings=SETTINGS, episodes=4, seed=3, jobs=1, out=run / "free")
    assert free.gate_limit is None
    assert 0 <= result.cells[-1].mean_q_gain < free.cells[-1].mean_q_gain


@pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow autograd reference")
def test_workers_need_no_data_and_a_table_has_one_gate(run, critic, tmp_path):
    options = {"critic": critic, "settings": SETTINGS, "episodes": 2}
    one = sweep(run, gate=0.5, jobs=1, out=tmp_path / "one", **options)
    two = sweep(run, gate=0.5, jobs=2, out=tmp_path / "two", **options)
    assert table(tmp_path / "one") == table(tmp_path / "two") and one.to_dict() == two.to_dict()
    assert sweep(run, gate=0.5, jobs=1, out=tmp_path / "one", **options).played == 0
    for other in (0.9, None):
        with pytest.raises(ValueError, match=r"is of another sweep: critic was .*gate_limit"):
            sweep(run, gate=other, jobs=1, out=tmp_path / "one", **options)


def test_a_gate_that_cannot_be(run, critic, make_critic, tmp_path):
    out = tmp_path / "nowhere"
    with pytest.raises(ValueError, match=r"gate: expected None without a critic, got 0\.5"):
        sweep(run, gate=0.5, episodes=1, out=out)
    with pytest.raises(ValueError, match=r"quantile: expected a number in \[0, 1\], got 2"):
        sweep(run, critic=critic, gate=2, settings=SETTINGS, episodes=1, out=out)
    shutil.rmtree(tmp_path / "minari")
    with pytest.raises(FileNotFoundError, match="gate: its limit is a quantile over the critic's dataset"):
        sweep(run, critic=critic, gate=0.5, settings=SETTINGS, episodes=1, out=out)
    assert not out.exists()
