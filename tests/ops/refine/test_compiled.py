"""`refine` under torch.compile and torch.export."""

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from small_critics import critic_of, inputs, quiet, step_by_optimizer
from torch import nn

from dtag_fast import SGD, Adam, ClipNorm, Prior, Radius, Refiner, Variant, refine

pytestmark = quiet


class Acting(nn.Module):
    def __init__(self, critic, **options):
        super().__init__()
        self.critic, self.options = critic, options

    def forward(self, states, actions):
        return refine(self.critic, states, actions * 0.5, **self.options)


OPTION_SETS = {
    "plain": {},
    "dataclasses": {
        "optimizer": SGD(0.9, nesterov=True),
        "gradient": ClipNorm(0.2),
        "radius": Radius(0.3, "l2"),
    },
    "names": {
        "optimizer": "adam",
        "reduce": 1,
        "select": "last",
        "bounds": (-0.5, 0.5),
        "steps": 3,
        "lr": 0.2,
    },
    "reach": {"scale": 0.5, "radius": Radius(0.2, "l2"), "gradient": "unit"},
    "prior": {"prior": Prior(0.2, 1.5), "radius": 0.3},
    "adam": {"optimizer": Adam((0.8, 0.9)), "reduce": "mean", "bounds": None, "radius": 0.1},
}


@pytest.mark.parametrize("name", OPTION_SETS)
def test_compiles_without_a_graph_break(name):
    torch._dynamo.reset()  # numbers that change from set to set would become symbolic
    critic, (states, actions) = critic_of(), inputs()
    acting = Acting(critic, **OPTION_SETS[name])
    compiled = torch.compile(acting, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(states, actions), acting(states, actions))
    step_by_optimizer(critic)
    assert torch.equal(compiled(states, actions), acting(states, actions))


def test_importing_refine_leaves_dynamo_alone():
    """It takes seconds to import, and eager users never need it."""
    code = "import sys, dtag_fast.ops.refine; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_refiner_and_info_compile():
    critic, (states, actions) = critic_of(), inputs()
    refiner = Refiner(critic, return_info="trace")
    compiled = torch.compile(lambda s, a: refiner(s, a), fullgraph=True, backend="aot_eager")
    for given in (actions, actions[:, None].repeat(1, 2, 1)):
        (ours, info), (expected, details) = compiled(states, given), refiner(states, given)
        assert torch.equal(ours, expected)
        for field in vars(details):
            x, y = getattr(info, field), getattr(details, field)
            assert (x is None and y is None) or torch.equal(x.nan_to_num(), y.nan_to_num())


def test_per_row_settings_compile():
    critic, (states, actions) = critic_of(), inputs()
    steps, lr = torch.tensor([1, 2, 3, 4]), torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    run = lambda s, a, n, lr: refine(critic, s, a, steps=n, lr=lr)  # noqa: E731
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(states, actions, steps, lr), run(states, actions, steps, lr))


@pytest.mark.parametrize("norm", ["inf", "l2"])
def test_scale_and_radius_of_rows_compile(norm):
    torch._dynamo.reset()  # or what the other norm had as constants becomes symbolic
    critic, (states, actions) = critic_of(), inputs()
    scale, limit = torch.rand(4, 3), torch.rand(4) * 0.1
    radius = limit if norm == "inf" else Radius(limit, norm)
    run = lambda s, a, scale: refine(critic, s, a, scale=scale, radius=radius, lr=0.3)  # noqa: E731
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected = run(states, actions, scale)
    assert torch.equal(compiled(states, actions, scale), expected)
    assert not torch.equal(expected, refine(critic, states, actions, lr=0.3))
    refiner = Refiner(critic, scale=0.5, radius=radius)
    compiled = torch.compile(lambda s, a: refiner(s, a), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(states, actions), refiner(states, actions))


def test_priors_compile():
    torch._dynamo.reset()
    critic, (states, actions) = critic_of(), inputs()
    mean, weight = torch.rand(4, 3), torch.rand(4) * 3
    without = refine(critic, states, actions, lr=0.3)
    for prior in (Prior(0.2, 1.5), Prior(mean, 1.5), Prior(0.2, weight), Prior(mean, weight)):
        run = lambda s, a: refine(critic, s, a, prior=prior, lr=0.3)  # noqa: E731, B023
        expected = run(states, actions)
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(states, actions), expected)
        assert not torch.equal(expected, without)
        refiner = Refiner(critic, prior=prior, lr=0.3)
        compiled = torch.compile(lambda s, a: refiner(s, a), fullgraph=True, backend="aot_eager")  # noqa: B023
        assert torch.equal(compiled(states, actions), expected)
        torch._dynamo.reset()
    run = lambda s, a, mean: refine(critic, s, a, prior=Prior(mean, 2.0), lr=0.3)  # noqa: E731
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")  # made in the graph
    for given in (mean, -mean):
        assert torch.equal(compiled(states, actions, given), run(states, actions, given))


def test_a_compiled_function_follows_the_critic_it_is_given():
    compiled = torch.compile(lambda c, s, a: refine(c, s, a), fullgraph=True, backend="aot_eager")
    critics, (states, actions) = [critic_of(0), critic_of(1)], inputs()
    for critic in (*critics, *critics):
        assert torch.equal(compiled(critic, states, actions), refine(critic, states, actions))
    twin = lambda s, a: refine(critics, s, a)  # noqa: E731
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(states, actions), twin(states, actions))


def test_a_compiled_function_follows_the_refiner_it_is_given():
    """Handles, numbers of steps and step sizes then change from call to call: torch makes symbols of them."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda refiner, s, a: refiner(s, a), fullgraph=True, backend="aot_eager")
    small = Refiner(critic_of(0)), inputs(4)
    deep = nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    options = {"steps": 3, "lr": 0.2, "optimizer": "adam", "scale": 0.5, "radius": Radius(0.4, "l2")}
    other = Refiner(deep, **options), inputs(7, state_dim=7, action_dim=2)
    for refiner, case in (small, other, small, other):
        assert torch.equal(compiled(refiner, *case), refiner(*case))
    told = Refiner(critic_of(2), return_info="trace", steps=6)
    (ours, info), (expected, details) = compiled(told, *small[1]), told(*small[1])
    assert torch.equal(ours, expected) and torch.equal(info.trace_q, details.trace_q)


def test_a_compiled_function_outlives_a_refiner_it_was_given():
    torch._dynamo.reset()
    compiled = torch.compile(lambda refiner, s, a: refiner(s, a), fullgraph=True, backend="aot_eager")
    gone, kept, case = Refiner(critic_of(0)), Refiner(critic_of(1), lr=0.1), inputs()
    compiled(gone, *case), compiled(kept, *case)
    number, weak = id(gone), weakref.ref(gone)
    del gone
    gc.collect()
    assert weak() is None
    assert torch.equal(compiled(kept, *case), kept(*case))
    newer = [Refiner(critic_of(2 + i), lr=0.3) for i in range(3)]  # one may stand where `gone` stood
    for refiner in sorted(newer, key=lambda refiner: id(refiner) != number):
        assert torch.equal(compiled(refiner, *case), refiner(*case))


CHANGING = {
    "steps": lambda x: {"steps": int(10 * x)},
    "lr": lambda x: {"lr": x},
    "scale": lambda x: {"scale": x},
    "bounds": lambda x: {"bounds": (-0.3 - x, [x, 0.4, 0.5])},
    "options": lambda x: {"optimizer": SGD(x), "gradient": ClipNorm(x), "radius": Radius(x, "l2")},
    "prior": lambda x: {"prior": Prior(x, 1.5), "optimizer": Adam((x, 0.9))},
    "variants": lambda x: {
        "variants": [Variant(radius=x), Variant(optimizer="adam")],
        "variant": torch.tensor([0, 1, 1, 0]),
    },
}


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", CHANGING)
def test_a_compiled_function_follows_numbers_that_change(name, dynamic):
    torch._dynamo.reset()
    critic, (states, actions), options = critic_of(), inputs(scale=0.3), CHANGING[name]
    run = lambda s, a, x: refine(critic, s, a, **{"lr": 0.3, **options(x)})  # noqa: E731
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = [compiled(states, actions, x) for x in (0.1, 0.2, 0.3, 0.1)]
    for x, result in zip((0.1, 0.2, 0.3, 0.1), results, strict=True):
        assert torch.equal(result, run(states, actions, x))
    assert not torch.equal(results[0], results[2])


EXPORTED = {
    "plain": {},
    "reach": {"scale": torch.tensor([[0.5, 0.1, 0.0]]), "radius": 0.2},
    "prior": {"prior": Prior([0.5, 0.1, 0.0], 2.0)},
}


@pytest.mark.parametrize("name", EXPORTED)
def test_exports_with_any_batch(name):
    acting = Acting(critic_of(), **EXPORTED[name])
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        acting, inputs(), dynamic_shapes={"states": {0: batch}, "actions": {0: batch}}
    ).module()
    for rows in (1, 4, 30):
        case = inputs(rows)
        assert torch.equal(program(*case), acting(*case))


def test_operator_passes_opcheck():
    states, actions = inputs()
    per_row = torch.tensor([1, 2, 3, 4]), torch.full((4, 1), 0.1)
    for return_info, own in ((False, per_row), ("trace", (None, None))):
        # "torch" has the gradient of the last iterate too: opcheck takes NaN for a difference
        refiner = Refiner(critic_of(), steps=4, return_info=return_info, backend="torch")
        for given in (actions, actions[:, None].repeat(1, 2, 1)):
            arguments = (
                states,
                given,
                refiner.weights(),
                *own,
                None,
                None,
                None,
                None,
                None,
                4,
                refiner.handle,
            )
            torch.library.opcheck(torch.ops.dtag_fast.refine.default, arguments)


def test_a_graph_whose_critic_is_gone_says_so():
    states, actions = inputs()
    refiner = Refiner(critic_of())
    handle, weights = refiner.handle, refiner.weights()
    del refiner
    gc.collect()
    with pytest.raises(RuntimeError, match="no longer exists"):
        torch.ops.dtag_fast.refine(states, actions, weights, *[None] * 7, 10, handle)


def test_weights_changed_inside_the_graph_are_refused():
    states, actions = inputs()
    refiner = Refiner(critic_of())
    weights = [w + 1 for w in refiner.weights()]
    with pytest.raises(RuntimeError, match="changed inside the compiled graph"):
        torch.ops.dtag_fast.refine(states, actions, weights, *[None] * 7, 10, refiner.handle)


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this torch has no such tag")
def test_inductor_makes_no_cuda_graph_of_it():
    """Such a graph would go on with the weights as they were when it was recorded."""
    assert torch.Tag.cudagraph_unsafe in torch.ops.dtag_fast.refine.default.tags
