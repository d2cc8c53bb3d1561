"""Bad input: the error names the argument, what was given and what is taken."""

import numpy as np
import pytest
import torch
from small_critics import A, H, S, backends, critic_of, inputs, quiet
from torch import nn

from dtag_fast import SGD, Adam, ClipNorm, CriticProgram, Prior, Radius, Refiner, refine
from dtag_fast.ops.refine.program import Linear

pytestmark = quiet

GOOD = {"critic": critic_of(), "states": inputs()[0], "actions": inputs()[1]}
BAD = {
    "critic kind": ({"critic": lambda s, a: a.sum()}, TypeError, "critic: expected an nn.Module"),
    "critic empty": ({"critic": []}, TypeError, "critic: expected an nn.Module"),
    "critic width": ({"states": torch.zeros(4, S + 1)}, ValueError, "critic: .*states .B, 6."),
    "critic output": ({"critic": nn.Bilinear(S, A, 2 * 3)}, None, None),
    "states kind": ({"states": [[0.0] * S]}, TypeError, "states: expected a torch tensor or a NumPy array"),
    "states dtype": ({"states": torch.zeros(4, S, dtype=torch.int64)}, TypeError, "states: .*int64"),
    "numpy dtype": ({"actions": np.zeros((4, A), int)}, TypeError, "actions: .*int64"),
    "states shape": ({"states": torch.zeros(4, S, 1)}, ValueError, "states: expected shape"),
    "actions shape": ({"actions": torch.zeros(4)}, ValueError, "actions: expected shape"),
    "rows": ({"actions": torch.zeros(3, A)}, ValueError, "actions: expected the 4 rows of states, got 3"),
    "no dimensions": ({"actions": torch.zeros(4, 0)}, ValueError, "actions: expected at least one number"),
    "device": (
        {"actions": torch.zeros(4, A, device="meta")},
        ValueError,
        "actions: expected the device of states",
    ),
    "default bounds": ({"actions": torch.full((4, A), 1.5)}, ValueError, "actions: the default bounds are"),
    "steps negative": ({"steps": -1}, ValueError, "steps: expected an integer in 0"),
    "steps fraction": ({"steps": 2.5}, TypeError, "steps: expected an integer"),
    "steps bool": ({"steps": True}, TypeError, "steps: expected an integer"),
    "steps rows": ({"steps": torch.ones(3, dtype=torch.int64)}, ValueError, "steps: expected 4 entries"),
    "steps floats": ({"steps": torch.ones(4)}, TypeError, "steps: expected integers"),
    "lr negative": ({"lr": -0.1}, ValueError, "lr: expected a finite number >= 0"),
    "lr nan": ({"lr": float("nan")}, ValueError, "lr: expected a finite number"),
    "lr text": ({"lr": "0.1"}, TypeError, "lr: expected a number"),
    "lr rows": ({"lr": torch.ones(5)}, ValueError, "lr: expected 4 entries .* or 3"),
    "lr tensor nan": ({"lr": torch.tensor([0.1, float("nan"), 0, 0])}, ValueError, "lr: expected finite"),
    "lr ambiguous": (
        {"states": torch.zeros(A, S), "actions": torch.zeros(A, A), "lr": torch.ones(A)},
        ValueError,
        "lr: 3 entries fit both",
    ),
    "scale negative": ({"scale": -0.1}, ValueError, "scale: expected a finite number >= 0, got -0.1"),
    "scale text": ({"scale": "0.1"}, TypeError, "scale: expected a number or numbers of shape"),
    "scale bool": ({"scale": True}, TypeError, "scale: expected a number"),
    "scale rows": ({"scale": torch.ones(5)}, ValueError, "scale: expected 4 entries .* or 3"),
    "scale shape": (
        {"scale": torch.ones(2, 3)},
        ValueError,
        r"scale: expected shape .*\(4, 3\), got \(2, 3\)",
    ),
    "scale infinite": ({"scale": [0.1, float("inf"), 0, 0]}, ValueError, "scale: expected finite numbers"),
    "scale ambiguous": (
        {"states": torch.zeros(A, S), "actions": torch.zeros(A, A), "scale": torch.ones(A)},
        ValueError,
        "scale: 3 entries fit both",
    ),
    "optimizer name": ({"optimizer": "lion"}, ValueError, "optimizer: expected .*'lion'"),
    "optimizer kind": ({"optimizer": torch.optim.SGD}, TypeError, "optimizer: expected"),
    "reduce": ({"reduce": "median"}, ValueError, "reduce: expected"),
    "reduce member": ({"reduce": 2}, ValueError, r"reduce: expected a member in 0\.\.1"),
    "reduce negative": ({"reduce": -1}, ValueError, r"reduce: expected a member in 0\.\.1"),
    "gradient": ({"gradient": "sign"}, ValueError, "gradient: expected"),
    "radius": ({"radius": -0.1}, ValueError, "radius: expected"),
    "radius rows": ({"radius": torch.ones(3)}, ValueError, "radius: expected 4 entries, one per row, got 3"),
    "radius of dimensions": ({"radius": torch.ones(4, A)}, ValueError, "radius: .*per dimension is `scale`"),
    "radius row negative": ({"radius": [0.1, -1.0, 0, 0]}, ValueError, r"radius: .*>= 0, got -1\.\.0\.1"),
    "radius kind": ({"radius": "0.1"}, TypeError, "radius: expected a number"),
    "prior kind": ({"prior": (0.0, 1.0)}, TypeError, r"prior: expected Prior\(mean, weight\) or None, got"),
    "prior mean shape": (
        {"prior": Prior(torch.zeros(4, 1), 1.0)},
        ValueError,
        r"Prior mean: expected shape .*\(4, 3\), got \(4, 1\)",
    ),
    "prior mean rows": (
        {"prior": Prior(torch.zeros(4), 1.0)},
        ValueError,
        r"Prior mean: expected shape .*\(4, 3\), got \(4,\)",
    ),
    "prior weight rows": (
        {"prior": Prior(0.0, torch.ones(3))},
        ValueError,
        "Prior weight: expected 4 entries, one per row, got 3",
    ),
    "select": ({"select": "first"}, ValueError, "select: expected"),
    "precision": ({"precision": "low"}, ValueError, "precision: expected one of"),
    "backend": ({"backend": "xla"}, ValueError, "backend: expected one of"),
    "backend gpu": ({"backend": "cuda"}, ValueError, "backend: 'cuda' cannot run"),
    "return_info": ({"return_info": "all"}, ValueError, "return_info: expected one of"),
    "bounds kind": ({"bounds": 1.0}, TypeError, "bounds: expected a Gymnasium Box"),
    "bounds order": ({"bounds": (1.0, -1.0)}, ValueError, "bounds: low must not exceed high"),
    "bounds nan": ({"bounds": (float("nan"), 1.0)}, ValueError, "bounds: low holds NaN"),
    "bounds width": ({"bounds": ([-1.0, -1.0], 1.0)}, ValueError, "bounds: low must be one number or 3"),
}
del BAD["critic output"]


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_argument(name):
    change, error, message = BAD[name]
    with pytest.raises(error, match=message):
        refine(**(GOOD | change))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(1.0),
        lambda: SGD(nesterov=True),
        lambda: Adam((0.9, 1.0)),
        lambda: Adam(eps=-1),
        lambda: ClipNorm(0),
        lambda: Radius(float("nan")),
        lambda: Radius(1, "l1"),
        lambda: Radius([0.1, float("nan")], "l2"),
        lambda: Radius(torch.tensor(0.1)),
        lambda: Prior(float("nan"), 1.0),
        lambda: Prior([0.0, float("inf"), 0.0], 1.0),
        lambda: Prior(torch.zeros(2, 2, 2), 1.0),
        lambda: Prior(0.0, -1.0),
        lambda: Prior(0.0, float("inf")),
        lambda: Prior(0.0, [1.0, -0.5]),
        lambda: Prior(0.0, torch.ones(4, 3)),
    ],
)
def test_options_check_themselves(make):
    with pytest.raises(ValueError, match=r"expected|needs"):
        make()


@pytest.mark.parametrize(
    "make",
    [lambda: Prior("0", 1.0), lambda: Prior(0.0, None), lambda: Prior(True, 1.0), lambda: Prior(0.0, False)],
)
def test_a_prior_holds_numbers(make):
    with pytest.raises(TypeError, match=r"Prior (mean|weight): expected a number"):
        make()


@backends
def test_weights_that_are_not_finite_are_refused(backend):
    critic, (states, actions) = critic_of(), inputs()
    with torch.no_grad():
        critic[2].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"critic: .*NaN or infinite"):
        refine(critic, states, actions, backend=backend)


def test_unusable_outputs_are_refused():
    states, actions = inputs()

    class Returns(nn.Module):
        def __init__(self, make):
            super().__init__()
            self.make = make

        def forward(self, state, action):
            return self.make(action)

    for make, message in (
        (lambda a: a.sum(), "critic: expected Q of shape"),
        (lambda a: a[:, :, None, None], "critic: expected Q of shape"),
        (lambda a: {"q": a}, "critic: expected Q as a tensor"),
        (lambda a: a.detach().sum(-1), "critic: its Q carries no gradient"),
    ):
        with pytest.raises(ValueError, match=message):
            refine(Returns(make), states, actions)


def test_batch_norm_in_training_is_refused():
    critic = nn.Sequential(nn.Linear(S + A, H), nn.BatchNorm1d(H), nn.Linear(H, 1))
    with pytest.raises(ValueError, match=r"BatchNorm1d '1' is in training mode.*critic.eval\(\)"):
        refine(critic, *inputs())
    assert refine(critic.eval(), *inputs()).shape == (4, A)


def test_out_must_fit():
    states, actions = inputs()
    refiner = Refiner(critic_of())
    for out in (torch.empty(3, A), torch.empty(4, A, dtype=torch.float64)):
        for _ in range(2):  # the first call prepares the short path of the second
            with pytest.raises(ValueError, match="out: expected shape"):
                refiner(states, actions, out=out)
            refiner(states, actions)
    with pytest.raises(TypeError, match="out: expected Tensor"):
        refiner(states, actions, out=np.empty((4, A), np.float32))


def test_default_bounds_are_checked_on_the_short_path_too():
    states, actions = inputs()
    refiner = Refiner(critic_of())
    refiner(states, actions)
    with pytest.raises(ValueError, match="default bounds"):
        refiner(states, actions + 1.5)
    assert Refiner(critic_of(), bounds=(-1, 1))(states, actions + 1.5).max() <= 1


def test_program_errors_name_the_layer():
    weight = torch.zeros(1, S + A)
    for members, message in (
        ([], "at least one member"),
        ([[Linear(weight[:, 1:])]], r"member 0: layer 0: Linear weight must be \(out, 8\)"),
        ([[Linear(weight)], [Linear(weight.expand(2, -1))]], "member 1: the last layer must have width 1"),
        ([[Linear(weight, torch.zeros(2))]], r"bias must be \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            CriticProgram(S, A, members)
