"""The registered operators: torch.library's own checks, torch.compile without graph breaks."""

import pytest
import torch
from embedding_cases import ORDERS, assert_near, exact, make_case, map_tensors, results, to_device
from kernel_device import DEVICE

from dtag_fast.ops.embedding import embed_tokens


@pytest.mark.parametrize("of_inputs", [True, False])
def test_the_operator_passes_the_checks_of_torch(of_inputs):
    from dtag_fast.ops.embedding.operator import embed_operator

    case = to_device(make_case(), DEVICE)
    weights = map_tensors(case, lambda x: x.requires_grad_())
    inputs = [case[name].requires_grad_(of_inputs) for name in ("returns_to_go", "states", "actions")]
    kinds = [[weights[f"{kind}_{of}"] for kind in ORDERS[0]] for of in ("weight", "bias")]
    shared = [weights[name] for name in ("timestep_table", "norm_weight", "norm_bias")]
    torch.library.opcheck(embed_operator, (inputs, *kinds, case["timesteps"], *shared, 1, 1e-5))


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("order", ORDERS)
def test_compiled_without_a_graph_break(backend, order):
    case = to_device(make_case(order), DEVICE)
    compiled = torch.compile(embed_tokens, fullgraph=True, backend="aot_eager")
    assert_near(results(case, backend, function=compiled), exact(case), 1e-5)


def test_compiled_with_gradients_of_some():
    case = to_device(make_case(), DEVICE)
    case["action_weight"].requires_grad_()
    compiled = torch.compile(embed_tokens, fullgraph=True, backend="aot_eager")
    found = results(case, "triton", function=compiled)
    assert found.keys() == {"tokens", "action_weight"}
    assert_near(found, exact(case), 1e-5)
