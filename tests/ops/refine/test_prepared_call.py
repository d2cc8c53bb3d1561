"""The compiled form of a repeated call: the same bits as the general way, and None for every other call."""

import gc
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from dtag_fast import Refiner
from dtag_fast.ops.refine.program import CriticProgram, Linear
from dtag_fast.ops.watch import Watch, slots_of

_C = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
S, A = 3, 2


class TwinCritic(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.q1, self.q2 = (nn.Sequential(nn.Linear(S + A, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(2))
        self.register_buffer("scale", torch.ones(S + A))

    def forward(self, states, actions):
        x = torch.cat([states, actions], -1) / self.scale
        return self.q1(x), self.q2(x)


def inputs(rows=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, S, generator=generator), torch.rand(rows, A, generator=generator) * 2 - 1


def prepared(critic=None, rows=4, **settings):
    """A Refiner after its first call, with that call in compiled form."""
    refiner = Refiner(TwinCritic() if critic is None else critic, lr=0.1, **settings)
    refiner(*inputs(rows))
    assert type(refiner._prepared) is _C.PreparedCall
    return refiner


@pytest.mark.parametrize("rows", [1, 4, 40])
@pytest.mark.parametrize("kind", ["tensors", "arrays", "float64 states", "array and tensor", "one row"])
def test_the_same_bits_as_the_general_way(rows, kind):
    states, actions = inputs(rows)
    if kind == "arrays":
        states, actions = states.numpy(), actions.numpy()
    elif kind == "float64 states":
        states = states.double() + 1e-12
    elif kind == "array and tensor":
        states = states.numpy().astype(np.float64)
    elif kind == "one row":
        states, actions = states[0], actions[0]
    refiner = Refiner(TwinCritic(), lr=0.1)
    before = actions.copy() if isinstance(actions, np.ndarray) else actions.clone()
    expected = refiner.run(states, actions)
    result = refiner._prepared(states, actions, None)
    assert type(result) is type(actions) and result is not actions and result.dtype == actions.dtype
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(actions, before)
    out = np.empty_like(actions) if kind == "arrays" else torch.empty_like(actions)
    assert refiner(states, actions, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert refiner._prepared(states, actions, actions) is actions, "out may be actions itself"
    np.testing.assert_array_equal(actions, expected)


def other_calls():
    states, actions = inputs()
    wide = torch.zeros(4, 2 * A)
    read_only = np.zeros((4, A), np.float32)
    read_only.flags.writeable = False
    odd = np.frombuffer(bytearray(4 * A * 4 + 1), np.uint8)[1:].view(np.float32).reshape(4, A)
    lazily_negated = torch.zeros(4, A, dtype=torch.complex64).conj().imag
    return {
        "rows": (*inputs(5), None),
        "one row": (states[0], actions[0], None),
        "candidates": (states, actions[:, None].expand(4, 3, A), None),
        "dtype": (states, actions.double(), None),
        "half": (states.half(), actions, None),
        "integers": (torch.zeros(4, S, dtype=torch.int32), actions, None),
        "strides": (states, wide[:, ::2], None),
        "fortran": (states, np.asfortranarray(actions.numpy()), None),
        "parameter": (states, nn.Parameter(actions), None),
        "misaligned": (states, odd, None),
        "negated": (states, lazily_negated, None),
        "meta": (states.to("meta"), actions, None),
        "sparse": (states.to_sparse(), actions, None),
        "list": (states.tolist(), actions, None),
        "out of another shape": (states, actions, torch.empty(4, A + 1)),
        "out of another dtype": (states, actions, torch.empty(4, A).double()),
        "out with strides": (states, actions, wide[:, ::2]),
        "out of another type": (states, actions, np.empty((4, A), np.float32)),
        "out that is no array": (states, actions, [0.0]),
        "read-only out": (states.numpy(), actions.numpy(), read_only),
        "outside the default bounds": (states, actions + 1.5, None),
    }


@pytest.mark.parametrize("name", other_calls())
def test_every_other_call_is_left_to_the_general_way(name):
    refiner = prepared()
    states, actions, out = other_calls()[name]
    before = np.asarray(out).copy()
    assert refiner._prepared(states, actions, out) is None
    np.testing.assert_array_equal(np.asarray(out), before)


def test_nan_is_inside_the_default_bounds():
    refiner, (states, actions) = prepared(), inputs()
    actions[1, 0] = np.nan
    result = refiner._prepared(states, actions, None)
    assert result[1].isnan().tolist() == [True, False] and not result[[0, 2, 3]].isnan().any()


def test_bounds_that_were_asked_for_are_not_checked():
    refiner, (states, actions) = prepared(bounds=(-1, 1)), inputs()
    assert refiner._prepared(states, actions + 1.5, None).max() <= 1


def in_place(critic):
    with torch.no_grad():
        critic.q2[2].bias.add_(0)


def replaced(critic):
    critic.q1[0].weight = nn.Parameter(critic.q1[0].weight.detach().clone())


def buffer_replaced(critic):
    critic.scale = critic.scale.clone()


def loaded(critic):
    critic.load_state_dict(TwinCritic(1).state_dict())


def removed(critic):
    del critic.q2[2].bias


def in_training(critic):
    critic.train(not critic.training)


@pytest.mark.parametrize("change", [in_place, replaced, buffer_replaced, loaded, removed, in_training])
def test_a_changed_critic_is_noticed(change):
    critic = TwinCritic()
    call = prepared(critic)._prepared
    watch = Watch(list(slots_of([critic]).values()))
    watch.accept(watch.snapshot())
    assert call(*inputs(), None) is not None and not watch.changed()
    change(critic)
    assert call(*inputs(), None) is None
    if change in (in_training, removed):
        return  # these are noticed before a Watch is asked
    assert watch.changed()
    watch.accept(watch.snapshot())
    assert not watch.changed()


def test_new_weights_are_used_by_the_next_prepared_call():
    critic = TwinCritic()
    refiner = prepared(critic)
    loaded(critic)
    expected = Refiner(TwinCritic(1), lr=0.1)(*inputs())
    for _ in range(3):
        assert torch.equal(refiner(*inputs()), expected)
    assert torch.equal(refiner._prepared(*inputs(), None), expected)


def test_weights_that_were_swapped_and_come_back_are_packed_again():
    """Tensors and versions are those of the first call; what is packed are the numbers in between."""
    critic = TwinCritic()
    refiner = prepared(critic)
    expected, first, weight = refiner(*inputs()), refiner._prepared, critic.q1[0].weight
    critic.q1[0].weight = nn.Parameter(weight.detach() * 2)
    assert not torch.equal(refiner(*inputs()), expected)
    critic.q1[0].weight = weight
    assert first(*inputs(), None) is None and refiner._prepared(*inputs(), None) is None
    assert torch.equal(refiner(*inputs()), expected)


def test_shapes_seen_before_stay_prepared():
    refiner = prepared()
    many = [inputs(rows) for rows in range(1, 31)]
    expected = [refiner(*case) for case in many]
    for case, result in zip(many[-3:], expected[-3:], strict=True):
        assert torch.equal(refiner._prepared(*case, None), result)
    last = refiner._prepared
    refiner.run(*many[-2])
    assert refiner._prepared is last, "nothing new"
    assert refiner._prepared(*many[0], None) is None, "at most 16 are kept"
    assert torch.equal(refiner(*many[0]), expected[0])


def test_calls_of_another_plan_are_not_kept():
    refiner, other = prepared(rows=4), prepared(rows=5)
    (binding,) = refiner._bindings
    seen = binding.watch.seen((), ())
    call = binding.executor.prepare_call((9, S), (9, A), seen, False, other._prepared)
    assert call(*inputs(9), None) is not None and call(*inputs(5), None) is None
    call = binding.executor.prepare_call((9, S), (9, A), seen, False, refiner._prepared)
    assert call(*inputs(9), None) is not None and call(*inputs(4), None) is not None


def test_weights_without_versions_are_watched_by_identity():
    with torch.inference_mode():
        critic = TwinCritic()
    refiner = prepared(critic)
    assert refiner._prepared(*inputs(), None) is not None
    replaced(critic)
    assert refiner._prepared(*inputs(), None) is None


def test_a_program_has_no_modes():
    layer = Linear(torch.randn(1, S + A, generator=torch.Generator().manual_seed(0)))
    refiner = prepared(CriticProgram(S, A, ((layer,),)))
    assert torch.equal(refiner._prepared(*inputs(), None), refiner.run(*inputs()))


def test_calls_keep_nothing():
    states, actions = inputs()
    refiner = prepared()
    arrays = states.numpy(), actions.numpy()
    counts, nones = [sys.getrefcount(x) for x in arrays], sys.getrefcount(None)
    for _ in range(1000):
        refiner._prepared(*arrays, None)
        refiner._prepared(*arrays, [])
    assert [sys.getrefcount(x) for x in arrays] == counts
    assert abs(sys.getrefcount(None) - nones) < 500


def arguments(**changes):
    members = [[("linear", np.zeros((1, S + A), np.float32), None)]]
    plan = _C.Plan(state_dim=S, action_dim=A, members=members, threads=lambda: 1)
    like = {"empty_like_tensor": torch.empty_like, "empty_like_array": np.empty_like}
    lists = {name: [] for name in ("stores", "names", "tensors", "versions", "modules", "modes")}
    shapes = {"states_shape": (4, S), "actions_shape": (4, A)}
    types = {"tensor_type": torch.Tensor, "array_type": np.ndarray}
    return {"plan": plan, "within_one": False} | like | lists | shapes | types | changes


def test_what_it_is_made_from_is_checked():
    assert _C.prepare_call(**arguments())(*inputs(), None).shape == (4, A)
    assert _C.prepare_call(**arguments(tensor_type=int)) is None, "no table of functions"
    tensor = torch.zeros(1)
    one = {"names": ["weight"], "tensors": [tensor], "versions": [0]}
    for error, wrong in (
        (ValueError, {"states_shape": (4, S + 1)}),
        (ValueError, {"actions_shape": (5, A)}),
        (ValueError, {"states_shape": (0, S), "actions_shape": (0, A)}),
        (ValueError, {"states_shape": (), "actions_shape": ()}),
        (ValueError, {"stores": [{}]}),
        (ValueError, {"modes": [True]}),
        (TypeError, {"stores": [tensor], **one}),
        (TypeError, {"stores": [{}], **one, "tensors": [0]}),
        (TypeError, {"modules": [nn.Linear(1, 1)], "modes": [True]}),
        (TypeError, {"plan": object()}),
        (TypeError, {"known": object()}),
    ):
        with pytest.raises((error, RuntimeError) if "plan" in wrong else error):
            _C.prepare_call(**arguments(**wrong))
    call = _C.prepare_call(**arguments())
    with pytest.raises(TypeError, match="states, actions, out"):
        call(*inputs())
    with pytest.raises(TypeError):
        type(call)()


def test_the_garbage_collector_sees_what_it_holds():
    tensor, store = torch.zeros(1), {}
    store["weight"] = tensor
    one = {"stores": [store], "names": ["weight"], "tensors": [tensor], "versions": [0]}
    store["call"] = _C.prepare_call(**arguments(**one))
    gone = weakref.ref(tensor)
    del tensor, store, one
    gc.collect()
    assert gone() is None
