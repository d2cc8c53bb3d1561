"""What `load_critic` is told beside the source, and sources that no format takes."""

import numpy as np
import pytest
import torch
from torch import nn

from dtag_fast.interop import load_critic

S, A = 3, 2


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(S + A, 1)

    def forward(self, states, actions):
        return self.layer(torch.cat([states, actions], -1))


@pytest.mark.parametrize("low, high", [(-2, 2.0), ([-2, -2], np.array([2.0, 2.0])), (torch.tensor(-2.0), 2)])
def test_bounds_are_one_number_or_one_per_dimension(low, high):
    critic = load_critic(Critic(), action_dim=A, action_low=low, action_high=high)
    np.testing.assert_array_equal(critic.bounds, [[-2, -2], [2, 2]])


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"action_low": -1}, "action_low, action_high: expected both or none"),
        ({"action_low": [1, 2, 3], "action_high": 4}, "action_low: expected 2 finite numbers, got 3"),
        ({"action_low": -1, "action_high": np.inf}, "action_high: expected 2 finite numbers"),
        ({"action_low": 1, "action_high": 1}, "action_low: expected below action_high"),
        (
            {"quantiles": "truncated"},
            "quantiles: sources of ensembles say it or have none; leave quantiles out",
        ),
        ({"reward_units": "raw"}, "reward_units: ensembles does not say how rewards were scaled"),
        ({"action_dim": "2"}, "action_dim: expected a whole number, got '2'"),
        ({"action_dim": True}, "action_dim: expected a whole number, got True"),
        ({"quantiles": "median"}, "quantiles: expected mean or truncated, got 'median'"),
        ({"norm": "none"}, "norm: expected before or after, got 'none'"),
        ({"format": "sb3"}, "format: expected one of stable-baselines3, d3rlpy"),
        ({"state_std": 2.0}, "state_mean, state_std: expected both or none; 0 and 1 leave"),
        ({"state_mean": [1, 2, 3]}, "state_mean, state_std: expected both or none"),
        (
            {"state_mean": 0, "state_std": [1.0, 0.0, 1.0]},
            r"state_std: expected numbers above 0, got \[1.0, 0",
        ),
        ({"state_mean": 0, "state_std": torch.tensor(-1.0)}, "state_std: expected numbers above 0, got -1.0"),
        ({"state_mean": 0, "state_std": np.nan}, "state_std: expected numbers above 0, got nan"),
        ({"state_mean": [1, 2], "state_std": [1, 2]}, "state_mean: expected 3 finite numbers, got 2"),
    ],
)
def test_options_that_do_not_fit(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_critic(Critic(), **{"action_dim": A, **options})


def test_sources_that_no_format_takes(tmp_path):
    with pytest.raises(
        TypeError, match=r"an object of class int: not a critic .* corl: a checkpoint of CORL's"
    ):
        load_critic(3)
    with pytest.raises(FileNotFoundError, match="expected a file that holds a critic"):
        load_critic(tmp_path / "none.pt")
    (tmp_path / "text").write_text("no critic")
    with pytest.raises(ValueError, match="not a critic that can be read here; what can: stable-baselines3"):
        load_critic(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match=r"a folder; .* by dtag_fast.training.load_critic"):
        load_critic(tmp_path)
    (tmp_path / "sac.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(FileNotFoundError, match=r"there is no file, but sac\.zip"):
        load_critic(tmp_path / "sac")
    with pytest.raises(ValueError, match="a zip archive that is damaged or cut off"):
        load_critic(tmp_path / "sac.zip")


@pytest.mark.parametrize(
    "content",
    [
        Critic().state_dict(),
        (Critic().state_dict(), Critic().state_dict()),
        {"q": Critic().state_dict(), "steps": 3},
    ],
    ids=["one", "a tuple", "a dict"],
)
def test_state_dicts_of_modules_of_one_s_own(content, tmp_path):
    torch.save(content, tmp_path / "q.pt")
    with pytest.raises(ValueError, match=r"load it into the module and give `refine` that, or load_critic\("):
        load_critic(tmp_path / "q.pt", action_dim=A)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_modules_are_those_inside(wrap):
    module = Critic()
    states, actions = torch.randn(7, S), torch.randn(7, A)
    (q,) = load_critic(wrap(module), action_dim=A)(states, actions)
    torch.testing.assert_close(q, module(states, actions).detach())
