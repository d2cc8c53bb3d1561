"""Errors on held-out episodes: which are held out, that they are right, that nothing is disturbed."""

import json

import numpy as np
import pytest
import torch

from dtag_fast.algorithms import create
from dtag_fast.training import train
from dtag_fast.training.validation import Validation, split_episodes


def valid(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        r["step"]: {k: v for k, v in r.items() if k.startswith("valid/")} for r in rows if "valid/" in str(r)
    }


@pytest.mark.parametrize("fraction, held", [(0.01, 1), (0.34, 1), (0.5, 2), (0.99, 2)])
def test_every_episode_is_on_one_side(store, fraction, held):
    kept, out = split_episodes(store, fraction, seed=0)
    assert (kept.num_episodes, out.num_episodes) == (3 - held, held)
    rewards = sorted(s.episode(i).rewards.tobytes() for s in (kept, out) for i in range(s.num_episodes))
    assert rewards == sorted(store.episode(i).rewards.tobytes() for i in range(3))
    assert kept.metadata == store.metadata
    again, _ = split_episodes(store, fraction, seed=0)
    assert np.array_equal(kept.observations, again.observations)


def test_another_seed_holds_out_others(store):
    lengths = {split_episodes(store, 0.3, seed)[1].num_steps for seed in range(10)}
    assert len(lengths) == 3


def test_errors_are_those_of_the_held_out_episodes(store, configs, algorithm):
    """A batch that holds every held-out window or transition about equally often, against the mean error."""
    kept, out = split_episodes(store, 0.3, seed=1)
    learner = create(algorithm, kept, configs[algorithm])
    validation = Validation(learner, out, seed=0)
    before = {k: v.clone() for m in learner.modules.values() for k, v in m.state_dict().items()}
    first, noise = validation(), learner.generator.get_state()
    assert first == validation() and torch.equal(noise, learner.generator.get_state())
    assert all(torch.equal(before[k], v) for m in learner.modules.values() for k, v in m.state_dict().items())
    other = Validation(learner, kept, seed=0)()
    assert first.keys() == other.keys() and first != other
    sampler = learner.make_sampler(out)
    errors = [learner.validate(sampler.sample(torch.Generator().manual_seed(s))) for s in range(300)]
    for name, value in first.items():
        samples = torch.stack([e[name] for e in errors]).double()
        assert abs(value - samples.mean()) < 5 * samples.std() / 32**0.5 + 1e-6, name


def test_validation_does_not_change_training(store, configs, tmp_path, algorithm, assert_same_bits):
    options = {"config": configs[algorithm], "updates": 6, "holdout": 0.3}
    often = train(algorithm, store, out=tmp_path / "often", validate_every=2, **options)
    once = train(algorithm, store, out=tmp_path / "once", validate_every=100, **options)
    assert_same_bits(often, once)
    assert set(valid(often)) == {2, 4, 6} and valid(often)[6] == valid(once)[6]


def test_held_out_episodes_are_not_trained_on(store, configs, tmp_path, assert_same_bits):
    """The run equals one on the remaining episodes alone."""
    kept, _ = split_episodes(store, 0.3, seed=4)
    options = {"config": configs["dt"], "updates": 3, "seed": 4}
    part = train("dt", store, out=tmp_path / "part", holdout=0.3, validate_every=3, **options)
    assert_same_bits(part, train("dt", kept, out=tmp_path / "alone", **options))


def test_what_cannot_be_is_refused(store, configs, tmp_path):
    options = {"config": configs["dt"], "updates": 2, "out": tmp_path / "run"}
    with pytest.raises(ValueError, match="validate_every: expected together with holdout"):
        train("dt", store, holdout=0.1, **options)
    with pytest.raises(ValueError, match=r"holdout: expected a fraction between 0 and 1, got 1.5"):
        train("dt", store, holdout=1.5, validate_every=1, **options)
    with pytest.raises(ValueError, match="expected at least 2 episodes to divide"):
        train("dt", store.select([0]), holdout=0.5, validate_every=1, **options)
    assert not (tmp_path / "run").exists()
    train("dt", store, holdout=0.3, validate_every=1, **options)
    with pytest.raises(ValueError, match=r"resume: holdout was 0\.3 in .*, got None"):
        train("dt", store, **options | {"updates": 4, "resume": True})
