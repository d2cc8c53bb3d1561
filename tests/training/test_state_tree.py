"""Nested state survives its way through tensors and JSON."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtag_fast.training.state_tree import load_named, pack, unpack

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
KEYS = st.text(max_size=5) | st.integers(0, 99)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@given(TREES)
def test_any_tree_of_scalars_round_trips(tree):
    tensors, packed = pack(tree)
    assert tensors == {}
    again = unpack({}, json.loads(json.dumps(packed)))
    assert again == tree and repr(again) == repr(tree)  # 1, 1.0 and True stay apart, and so do (1,) and [1]


def test_optimizer_state_round_trips():
    parameter = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.grad = torch.randn(3)
    optimizer.step()
    tensors, packed = pack({"optimizer": optimizer.state_dict()})
    state = unpack(tensors, json.loads(json.dumps(packed)))["optimizer"]
    expected = optimizer.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    assert torch.equal(state["state"][0]["exp_avg"], expected["state"][0]["exp_avg"])
    assert set(tensors) == {f"optimizer.state.0.{name}" for name in ("step", "exp_avg", "exp_avg_sq")}


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match=r"state a\.0: expected tensors, numbers, strings, got object"):
        pack({"a": [object()]})


def test_tensors_and_tree_must_belong_together():
    tensors, tree = pack({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match="missing tensor 'b'"):
        unpack({"a": tensors["a"]}, tree)
    with pytest.raises(ValueError, match="foreign tensor 'c'"):
        unpack(tensors | {"c": torch.zeros(1)}, tree)


def test_module_keys_and_shapes_are_compared():
    module = torch.nn.Linear(2, 3)
    good = module.state_dict()
    with pytest.raises(ValueError, match=r"here: missing key 'bias' .* foreign key 'extra'"):
        load_named(module, {"weight": good["weight"], "extra": good["bias"]}, "here")
    with pytest.raises(ValueError, match=r"here: bias: expected shape \(3,\), got \(4,\)"):
        load_named(module, good | {"bias": torch.zeros(4)}, "here")
