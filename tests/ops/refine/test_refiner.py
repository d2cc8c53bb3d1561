"""Refiner: weights that follow the critic, lifetime, threads, torch.compile, explain, bad input."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import warnings
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import dtag_fast.ops.refine.backends as backends_module
from dtag_fast import SGD, Adam, ClipNorm, CriticProgram, Radius, Refiner, explain, refine
from dtag_fast.ops.refine.backends import compiled_cpu
from dtag_fast.ops.refine.program import Linear

BACKENDS = ["torch"] + ([] if isinstance(compiled_cpu(), str) else ["cpu"])
S, A, H = 5, 3, 32

pytestmark = pytest.mark.filterwarnings("ignore:refine. this critic runs on the slow:RuntimeWarning")
backends = pytest.mark.parametrize("backend", BACKENDS)
needs_cpu = pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled module is not there")


def critic_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(S + A, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 2))


def inputs(rows=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, S, generator=generator), torch.rand(rows, A, generator=generator) * 2 - 1


def fresh(critic, states, actions, **options):
    """What a critic with these numbers gives when nothing was prepared."""
    return refine(copy.deepcopy(critic), states, actions, backend="torch", **options)


def step_by_optimizer(critic):
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    critic(torch.randn(16, S + A)).sum().backward()
    optimizer.step()


def load_state(critic):
    critic.load_state_dict(critic_of(7).state_dict())


def assign_state(critic):
    critic.load_state_dict(critic_of(8).state_dict(), assign=True)


def replace_parameter(critic):
    critic[0].weight = nn.Parameter(torch.randn(H, S + A))


def polyak(critic):
    with torch.no_grad():
        for p, q in zip(critic.parameters(), critic_of(9).parameters(), strict=True):
            p.lerp_(q, 0.5)


@backends
@pytest.mark.parametrize("change", [step_by_optimizer, load_state, assign_state, replace_parameter, polyak])
def test_new_weights_are_noticed(backend, change):
    critic, (states, actions) = critic_of(), inputs()
    refiner = Refiner(critic, lr=0.3, backend=backend)
    before = refiner(states, actions), refine(critic, states, actions, lr=0.3, backend=backend)
    change(critic)
    expected = fresh(critic, states, actions, lr=0.3)
    for again in (refiner(states, actions), refine(critic, states, actions, lr=0.3, backend=backend)):
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-4)
        assert not torch.equal(again, before[0])


@backends
def test_refresh_after_changes_without_a_version(backend):
    critic, (states, actions) = critic_of(), inputs()
    refiner = Refiner(critic, lr=0.3, backend=backend)
    refiner(states, actions)
    for p in critic.parameters():
        p.data.mul_(-1.5)
    refiner.refresh()
    torch.testing.assert_close(
        refiner(states, actions), fresh(critic, states, actions, lr=0.3), rtol=0, atol=1e-4
    )
    critic[1] = nn.Tanh()  # another structure altogether
    refiner.refresh()
    torch.testing.assert_close(
        refiner(states, actions), fresh(critic, states, actions, lr=0.3), rtol=0, atol=1e-4
    )


@backends
def test_nothing_outlives_the_critic(backend):
    critic, (states, actions) = critic_of(), inputs()
    weights = weakref.ref(critic[0].weight)
    alive = weakref.ref(critic)
    for lr in (0.1, 0.2):
        refine(critic, states, actions, lr=lr, backend=backend)
        refine([critic, critic_of(1)], states, actions, lr=lr, backend=backend)
    del critic
    gc.collect()
    assert alive() is None and weights() is None


def test_many_settings_do_not_pile_up():
    critic, (states, actions) = critic_of(), inputs(1)
    for i in range(100):
        refine(critic, states, actions, steps=1, lr=0.001 * i)
    from dtag_fast.ops.refine.api import _refiners

    assert len(_refiners._entries[critic]) <= _refiners._limit


def test_a_refiner_keeps_its_critic():
    states, actions = inputs()
    refiner = Refiner(critic_of())
    gc.collect()
    assert refiner(states, actions).shape == actions.shape


def test_copies_and_pickles_are_refiners_of_their_own():
    critic, (states, actions) = critic_of(), inputs()
    refiner = Refiner(critic, lr=0.3, bounds=(-0.5, 0.5))
    expected = refiner(states, actions)
    copied, pickled = copy.deepcopy(refiner), pickle.loads(pickle.dumps(refiner))
    step_by_optimizer(critic)
    assert torch.equal(copied(states, actions), expected)
    assert torch.equal(pickled(states, actions), expected)


@backends
def test_threads(backend):
    """Several threads on one Refiner, with other batch sizes, while the compiled backend is made to re-pack.

    Autograd itself refuses weights that change under it, so the reference is left alone.
    """
    critic = critic_of()
    refiner = Refiner(critic, steps=3, backend=backend)
    cases = [inputs(rows) for rows in (1, 2, 9, 40)]
    expected = [refiner(*case) for case in cases]
    right: list = []
    done = threading.Event()

    def call(k):
        right.extend(torch.equal(refiner(*cases[k]), expected[k]) for _ in range(40))

    def touch():
        while backend != "torch" and not done.is_set():
            with torch.no_grad():
                critic[0].weight.mul_(1.0)

    workers = [threading.Thread(target=call, args=(k,)) for k in range(len(cases))]
    toucher = threading.Thread(target=touch)
    for thread in (*workers, toucher):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    toucher.join()
    assert len(right) == 40 * len(cases) and all(right)


@backends
def test_bounds_of_every_kind_agree(backend):
    critic, (states, actions) = critic_of(), inputs()
    low, high = np.array([-0.5, -1, -0.2]), np.array([0.5, 1, 0.3])
    box = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32))
    kinds = (box, (low, high), (low.tolist(), high.tolist()), (torch.tensor(low), torch.tensor(high)))
    results = [refine(critic, states, actions, lr=0.5, bounds=b, backend=backend) for b in kinds]
    for result in results[1:]:
        assert torch.equal(result, results[0])
    assert (results[0] >= torch.tensor(box.low)).all() and (results[0] <= torch.tensor(box.high)).all()
    box.high[:] = 0.1  # a Box that changed is another Box
    assert refine(critic, states, actions, lr=0.5, bounds=box, backend=backend).max() <= 0.1


# torch.compile and export


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
    "adam": {"optimizer": Adam((0.8, 0.9)), "reduce": "mean", "bounds": None, "radius": 0.1},
}


@pytest.mark.parametrize("name", OPTION_SETS)
def test_compiles_without_a_graph_break(name):
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


def test_a_compiled_function_follows_the_critic_it_is_given():
    compiled = torch.compile(lambda c, s, a: refine(c, s, a), fullgraph=True, backend="aot_eager")
    critics, (states, actions) = [critic_of(0), critic_of(1)], inputs()
    for critic in (*critics, *critics):
        assert torch.equal(compiled(critic, states, actions), refine(critic, states, actions))
    twin = lambda s, a: refine(critics, s, a)  # noqa: E731
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(states, actions), twin(states, actions))


def test_exports_with_any_batch():
    acting = Acting(critic_of())
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
            arguments = (states, given, refiner.weights(), *own, 4, refiner.handle)
            torch.library.opcheck(torch.ops.dtag_fast.refine.default, arguments)


def test_a_graph_whose_critic_is_gone_says_so():
    states, actions = inputs()
    refiner = Refiner(critic_of())
    handle, weights = refiner.handle, refiner.weights()
    del refiner
    gc.collect()
    with pytest.raises(RuntimeError, match="no longer exists"):
        torch.ops.dtag_fast.refine(states, actions, weights, None, None, 10, handle)


def test_weights_changed_inside_the_graph_are_refused():
    states, actions = inputs()
    refiner = Refiner(critic_of())
    weights = [w + 1 for w in refiner.weights()]
    with pytest.raises(RuntimeError, match="changed inside the compiled graph"):
        torch.ops.dtag_fast.refine(states, actions, weights, None, None, 10, refiner.handle)


# explain and warnings


def test_explain_names_every_backend():
    critic, (states, actions) = critic_of(), inputs()
    answer = explain(critic, states)
    text = str(answer)
    assert text == str(explain(critic, states, actions))
    assert answer.backend == BACKENDS[-1] and answer.lowered
    assert "2 members, 5 + 3 -> 32 relu -> 32 relu -> 1" in text
    assert "not cuda: tensors are on cpu" in text and "not triton: tensors are on cpu" in text


@needs_cpu
@pytest.mark.parametrize(
    ("setting", "precision"), [("highest", "fp32"), ("high", "fp32"), ("medium", "bf16")]
)
def test_precision_follows_torch(setting, precision):
    critic, (states, actions) = critic_of(), inputs()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(setting)
        answer = explain(critic, states)
        followed = refine(critic, states, actions, lr=0.2)
    finally:
        torch.set_float32_matmul_precision(before)
    assert answer.precision == precision and f'"{setting}"' in str(answer)
    assert torch.equal(followed, refine(critic, states, actions, lr=0.2, precision=setting))
    exact = refine(critic, states, actions, lr=0.2, precision="highest")
    torch.testing.assert_close(followed, exact, rtol=0, atol=0 if precision == "fp32" else 2e-2)


def test_without_the_compiled_module_everything_works(monkeypatch):
    monkeypatch.setattr(backends_module, "compiled_cpu", lambda: "left out by DTAG_BUILD=0")
    critic, (states, actions) = critic_of(), inputs()
    with pytest.warns(RuntimeWarning, match="left out by DTAG_BUILD=0"):
        refined = refine(critic, states, actions)
    assert torch.equal(refined, refine(critic, states, actions, backend="torch"))
    answer = explain(critic, states)
    assert answer.backend == "torch" and "not cpu: left out by DTAG_BUILD=0" in str(answer)
    with pytest.raises(ValueError, match="DTAG_BUILD=0"):
        refine(critic, states, actions, backend="cpu")


def test_one_warning_per_critic():
    class Odd(nn.Module):
        def forward(self, state, action):
            return -(action * state[:, :A].sigmoid()).sum(-1)

    critic, (states, actions) = Odd(), inputs()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for lr in (0.1, 0.1, 0.2):
            refine(critic, states, actions, lr=lr)
        refine(critic, states, actions, backend="torch")
    assert len([w for w in seen if w.category is RuntimeWarning]) == 1


# Bad input

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
    "optimizer name": ({"optimizer": "lion"}, ValueError, "optimizer: expected .*'lion'"),
    "optimizer kind": ({"optimizer": torch.optim.SGD}, TypeError, "optimizer: expected"),
    "reduce": ({"reduce": "median"}, ValueError, "reduce: expected"),
    "reduce member": ({"reduce": 2}, ValueError, r"reduce: expected a member in 0\.\.1"),
    "reduce negative": ({"reduce": -1}, ValueError, r"reduce: expected a member in 0\.\.1"),
    "gradient": ({"gradient": "sign"}, ValueError, "gradient: expected"),
    "radius": ({"radius": -0.1}, ValueError, "radius: expected"),
    "radius kind": ({"radius": "0.1"}, TypeError, "radius: expected a number"),
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
    ],
)
def test_options_check_themselves(make):
    with pytest.raises(ValueError, match=r"expected|needs"):
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
