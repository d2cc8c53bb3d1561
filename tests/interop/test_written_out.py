"""Policies and Action Gradient in plain operators, by PyTorch: equal to what the package itself does."""

import pytest
import torch
from exported_policies import (
    ACTIVATIONS,
    CONTINUOUS,
    HIGH,
    KINDS,
    LOW,
    A,
    Opaque,
    S,
    make_critic,
    make_policy,
    program,
)
from torch import nn

from dtag_fast import SGD, Adam, ClipNorm, Radius, RMSprop, refine
from dtag_fast.interop.export.acting import Acting, ActingModule
from dtag_fast.interop.export.action_gradient import climb
from dtag_fast.interop.export.critic_gradient import WrittenCritic
from dtag_fast.interop.export.operators import TorchOperators
from dtag_fast.interop.export.verification import TOLERANCE, expected_outputs, random_inputs, verify
from dtag_fast.models.behaviour import Behaviour
from dtag_fast.models.foreign_critic import ForeignCritic, Scaling
from dtag_fast.ops.refine.options import parse_options
from dtag_fast.ops.refine.program import CriticProgram, Linear
from dtag_fast.ops.refine.reference import action_gradient, evaluate_program, value_and_gradient
from dtag_fast.rollout.settings import AGSetting

DOUBLE = TorchOperators(torch.float64)
BOUNDS = tuple(torch.tensor(bound, dtype=torch.float64) for bound in (LOW, HIGH))


def pairs(rows=64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda width: torch.randn(rows, width, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(S), draw(A)


def run_module(acting: Acting):
    module = ActingModule(acting)
    names = [one.name for one in acting.inputs]
    return lambda inputs: [x.numpy() for x in module(*(torch.from_numpy(inputs[name]) for name in names))]


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "LayerNorm"])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_gradient_is_that_of_autograd(kind, norm):
    critic, (states, actions) = program(kind, norm, members=3), pairs()
    for reduce in ("min", "mean", 1):
        q, g = WrittenCritic(DOUBLE, critic, states, reduce).value_and_gradient(actions)
        members = lambda s, a: evaluate_program(critic, s, a)  # noqa: E731
        expected_q, expected_g = value_and_gradient(members, states, actions, reduce)
        torch.testing.assert_close(q[:, 0], expected_q, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(g.expand_as(expected_g), expected_g, rtol=1e-10, atol=1e-11)
        assert g.abs().max() > 1e-2


@pytest.mark.parametrize(
    "critic",
    [
        program(norm=True, affine=False),
        program(reduction="max", members=3),
        program(reduction="min", seed=1),
        program("tanh", widths=(8, 9, 10, 11)),
        program(members=1, widths=()),
    ],
    ids=["bare LayerNorm", "max", "min, no bias", "five layers", "linear"],
)
def test_gradient_of_other_critics(critic):
    states, actions = pairs()
    q, g = WrittenCritic(DOUBLE, critic, states).value_and_gradient(actions)
    expected_q, expected_g = value_and_gradient(
        lambda s, a: evaluate_program(critic, s, a), states, actions, "min"
    )
    torch.testing.assert_close(q[:, 0], expected_q, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(g.expand_as(expected_g), expected_g, rtol=1e-10, atol=1e-11)


def test_smooth_functions_stay_finite_far_out():
    x = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4])
    ops = TorchOperators()
    from dtag_fast.interop.export import activations
    from dtag_fast.ops.refine.program import Activation

    for kind, params in ACTIVATIONS.items():
        activation = Activation(kind, params)
        slope = activations.derivative(ops, activation, x)
        assert activations.apply(ops, activation, x).isfinite().all(), kind
        assert slope is None or slope.isfinite().all(), kind


OPTIONS = {
    "sgd": {},
    "last": {"select": "last"},
    "momentum": {"optimizer": SGD(0.9), "lr": 0.02},
    "nesterov": {"optimizer": SGD(0.5, nesterov=True), "select": "last"},
    "adam": {"optimizer": Adam(), "lr": 0.05},
    "rmsprop": {"optimizer": RMSprop(), "lr": 0.02},
    "unit": {"gradient": "unit", "lr": 0.1},
    "clip": {"gradient": ClipNorm(0.3), "lr": 0.1},
    "radius": {"radius": 0.05, "lr": 0.2},
    "l2 radius": {"radius": Radius(0.05, "l2"), "lr": 0.2, "select": "last"},
    "mean": {"reduce": "mean"},
    "member": {"reduce": 1},
    "one step": {"steps": 1},
    "one step, last": {"steps": 1, "select": "last"},
    "no step": {"steps": 0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_loop_is_that_of_refine(name):
    """Every option, in float64, with rows that start outside the bounds and rows that cannot start."""
    given = {"steps": 10, "lr": 0.03} | OPTIONS[name]
    steps, lr = given.pop("steps"), given.pop("lr")
    choices = {"optimizer": "sgd", "reduce": "min", "gradient": "raw", "radius": None, "select": "best"}
    options = parse_options(**(choices | given))
    critic, (states, actions) = program("silu", norm=True), pairs()
    states[5], states[6] = float("nan"), float("inf")
    written = WrittenCritic(DOUBLE, critic, states, options.reduce)
    found = climb(DOUBLE, written, actions, options, steps, lr, *BOUNDS)
    members = lambda s, a: evaluate_program(critic, s, a)  # noqa: E731
    bounded = type(options)(**{**vars(options), "low": BOUNDS[0].numpy(), "high": BOUNDS[1].numpy()})
    expected = action_gradient(members, states, actions, bounded, steps=steps, lr=lr).actions
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    a_0 = actions.clamp(*BOUNDS)
    assert torch.equal(found[5:7], a_0[5:7])
    assert (found != a_0).any() == (steps > 0)


def test_rows_stop_where_the_gradient_is_not_finite():
    """A slope of infinity: the row keeps its action, the others move."""
    weight = torch.tensor([[0.0, 0.0, 0.0, 2.0, -3.0]])
    critic = CriticProgram(S, A, ((Linear(weight, None),),))
    states, actions = torch.zeros(3, S), torch.zeros(3, A)
    options = parse_options(optimizer="sgd", reduce="min", gradient="raw", radius=None, select="best")
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    found = climb(
        TorchOperators(), WrittenCritic(TorchOperators(), critic, states), actions, options, 3, 0.1, low, high
    )
    assert torch.allclose(found, torch.tensor([0.6, -0.9]).expand(3, A))
    infinite = CriticProgram(S, A, ((Linear(weight * torch.inf, None),),))
    written = WrittenCritic(TorchOperators(), infinite, states)
    assert torch.equal(climb(TorchOperators(), written, actions, options, 3, 0.1, low, high), actions)


@pytest.mark.parametrize("kind", KINDS)
def test_policies_act_as_they_do(kind):
    acting = Acting(make_policy(kind))
    assert verify(acting, run_module(acting), "PyTorch", tolerance=1e-5).rows_apart == 0
    inputs = random_inputs(acting, 40, seed=9)
    actions = expected_outputs(acting, inputs)[0]
    assert actions.std(axis=0).min() > 1e-2  # else anything would pass


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_policies_refined_are_refine_of_what_they_do(kind):
    policy, critic = make_policy(kind), make_critic()
    acting = Acting(policy, critic, AGSetting(10, 0.05))
    result = verify(acting, run_module(acting), "PyTorch")
    assert result.largest_difference < TOLERANCE and result.rows_apart <= 1
    plain, refined = (
        expected_outputs(Acting(policy, critic, AGSetting(n, 0.05)), random_inputs(acting, 40, 9))[0]
        for n in (0, 10)
    )
    assert abs(plain - refined).max() > 0.05


@pytest.mark.parametrize("kind", ["dt", "dt-original", "reinformer", "adt"])
def test_padding_may_hold_anything_on_either_side(kind):
    acting = Acting(make_policy(kind))
    inputs = random_inputs(acting, 30, seed=4)
    run, empty = run_module(acting), ~inputs["mask"]
    expected = run(inputs)
    spoiled = {name: x.copy() for name, x in inputs.items()}
    for name in ("states", "actions", "returns_to_go"):
        if name in spoiled:
            spoiled[name][empty] = float("nan")
    spoiled["timesteps"][empty] = 10**9
    for ours, theirs in zip(run(spoiled), expected, strict=True):
        assert (ours == theirs).all()
    turned = {name: x.copy() for name, x in inputs.items()}
    for row, mask in enumerate(inputs["mask"]):  # from one side to the other
        shift = (~mask).sum() * (1 if mask[0] else -1)
        for name in turned:
            turned[name][row] = inputs[name][row][(range(len(mask)) - shift) % len(mask)]
    for ours, theirs in zip(run(turned), expected, strict=True):
        assert abs(ours - theirs).max() < 1e-5


def test_any_module_that_lowers_is_a_critic():
    module = make_critic().critic
    acting = Acting(make_policy("dt"), module, AGSetting(3, 0.1))
    states, actions = (x.float() for x in pairs())
    found = expected_outputs(acting, random_inputs(acting, 5, 0))[0]
    assert found.shape == (5, A)
    ours = climb(
        TorchOperators(),
        WrittenCritic(TorchOperators(), acting.program, states),
        actions,
        acting.options,
        3,
        0.1,
        *(bound.float() for bound in BOUNDS),
    )
    expected = refine(module, states, actions, steps=3, lr=0.1, bounds=(LOW, HIGH))
    assert (ours - expected).abs().max() < 1e-5


def test_critics_of_other_libraries_keep_their_scalings():
    members = [nn.Sequential(nn.Linear(S + A, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(2)]
    scaling = Scaling([0.1, 0.2, 0.3], [1.0, 2.0, 0.5], [0.0, -0.75], [1.0, 1.25], 3.0, -1.0)
    critic = ForeignCritic(members, "a library", S, A, scaling)
    states, actions = (x.float() for x in pairs())
    acting = Acting(make_policy("bc"), critic, AGSetting(4, 0.1))
    q = WrittenCritic(TorchOperators(), acting.program, states).value(actions)
    torch.testing.assert_close(q, torch.minimum(*critic(states, actions)), rtol=1e-5, atol=1e-5)


def test_the_policy_is_left_as_it_is():
    policy = make_policy("dt")
    ActingModule(Acting(policy, make_critic(), AGSetting(2)))
    assert all(parameter.requires_grad for parameter in policy.model.parameters())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"setting": AGSetting(5)}, "needs a critic"),
        ({"critic": Opaque(), "setting": AGSetting(5)}, "gradient cannot be written out"),
        ({"critic": program().members, "setting": AGSetting(5)}, "critic: expected"),
        ({"critic": make_critic(state_dim=7), "setting": AGSetting(5)}, "state_dim"),
        ({"critic": torch.nn.Linear(9, 1), "setting": AGSetting(5)}, "S = 3, A = 2"),
        ({"critic": make_critic(), "setting": AGSetting(5, behaviour=Behaviour())}, "not exported"),
        ({"critic": make_critic(), "setting": AGSetting(5, reduce=4)}, "reduce"),
        ({"critic": make_critic(), "setting": AGSetting(5, starts=4)}, "starts: draws .* are not exported"),
    ],
)
@pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow:RuntimeWarning")
def test_what_does_not_go_together_is_refused(arguments, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        Acting(make_policy("dt"), **arguments)


def test_discrete_actions_are_not_refined():
    with pytest.raises(ValueError, match="continuous actions"):
        Acting(make_policy("dt-discrete"), make_critic(), AGSetting(5))


def test_a_wrong_file_is_noticed():
    """The comparison is one that can fail: of one row, of all rows, by NaN."""
    for setting, rows in ((AGSetting(), slice(0, 1)), (AGSetting(4, 0.1), slice(None))):
        acting = Acting(make_policy("dt"), make_critic(), setting)
        for wrong in (1e-3, float("nan")):

            def run(inputs, acting=acting, wrong=wrong, rows=rows):
                outputs = expected_outputs(acting, inputs)
                outputs[0] = outputs[0].copy()
                outputs[0][rows] += wrong
                return outputs

            with pytest.raises(ValueError, match="windows differ from this package's"):
                verify(acting, run, "a runtime")
