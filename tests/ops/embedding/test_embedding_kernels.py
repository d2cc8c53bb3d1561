"""The Triton kernels against float64: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from embedding_cases import ORDERS, assert_near, exact, make_case, map_tensors, results, to_device
from kernel_device import DEVICE

from dtag_fast.ops.embedding import embed_tokens, launch
from dtag_fast.ops.embedding.tiles import chunk_for, tiles_for

STATES = (1, 3, 11, 17, 45, 111)
ACTIONS = (1, 2, 3, 6, 7, 8, 24)
WIDTHS = (16, 24, 64, 128, 200, 256)
STEPS = (1, 5, 20)
# Every pair of states and width; actions, steps, order and omitted tokens in turn.
SHAPES = [
    (
        *(ORDERS[(i + k) % 3], 1 + (i + k) % 3, STEPS[(i + 2 * k) % 3]),
        *(states, ACTIONS[(i + 6 * k) % 7], width, (2 * i + k) % (3 if (i + k) % 3 < 2 else 2)),
    )
    for i, states in enumerate(STATES)
    for k, width in enumerate(WIDTHS)
]
SHAPES += [(ORDERS[0], 2, 5, 376, 17, 256, 1), (ORDERS[0], 2, 5, 33, 32, 100, 1)]
BOUND = 1e-5


def check(case, bound=BOUND, dtype=None):
    found = results(case, "triton", dtype)
    assert_near(found, exact(case), bound)
    return found


@pytest.mark.parametrize(("order", "batch", "steps", "states", "actions", "width", "omit"), SHAPES)
def test_every_shape(order, batch, steps, states, actions, width, omit):
    check(to_device(make_case(order, batch, steps, states, actions, width, 9, omit), DEVICE))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("omit", [0, 1])
def test_more_tiles_than_one_and_timesteps_that_repeat(order, omit):
    case = make_case(order, 9, 7, 5, 2, 128, 4, omit)
    assert tiles_for(128, 5).rows < 9 * 7 and len(case["timesteps"].unique()) < 9 * 7
    found = check(to_device(case, DEVICE))
    assert (found["timestep_table"][-1] == 0).all()  # a row that no timestep names


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("order", ORDERS)
def test_lower_precisions_stay_near(dtype, bound, order):
    case = make_case(order, 4, 5, 45, 6, 64)
    check(to_device(map_tensors(case, lambda x: x.to(dtype)), DEVICE), bound)


def block_of(case):
    """States, actions and returns as column ranges of one block, as the samplers give them."""
    parts = [case[name] for name in ("states", "actions", "returns_to_go")]
    widths = [x.shape[-1] for x in parts]
    block = torch.cat([torch.full_like(parts[2], torch.nan), *parts], -1)[..., 1:]
    return dict(zip(("states", "actions", "returns_to_go"), block.split(widths, -1), strict=True))


LAYOUTS = {
    "block": block_of,
    "steps first": lambda case: {
        name: case[name].transpose(0, 1).contiguous().transpose(0, 1) for name in ("states", "timesteps")
    },
    "numbers apart": lambda case: {"states": case["states"].mT.contiguous().mT},
    "expanded": lambda case: {
        name: case[name][:1].expand(len(case[name]), -1, -1) for name in ("states", "actions")
    },
    "transposed weight": lambda case: {"state_weight": case["state_weight"].mT.contiguous().mT},
    "every second step": lambda case: {
        name: case[name].repeat_interleave(2, 1)[:, ::2] for name in ("actions", "timesteps")
    },
    "int32": lambda case: {"timesteps": case["timesteps"].int()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout):
    case = to_device(make_case(states=11, actions=3), DEVICE)
    changed = LAYOUTS[layout](case)
    same = all(x.stride() == case[name].stride() for name, x in changed.items())
    assert same == (layout == "int32")  # the test would show nothing
    check(case | changed)


def test_gradients_that_nobody_needs_are_not_made():
    case = to_device(make_case(), DEVICE)
    for names in (("state_weight",), ("action_bias", "timestep_table"), ("returns_to_go",), ("norm_weight",)):
        some = case | {name: case[name].clone().requires_grad_() for name in names}
        assert check(some).keys() == {"tokens", *names}


def test_what_backward_stores_is_what_is_needed():
    case = make_case()
    kinds = [
        [case[f"{prefix}{suffix}"] for prefix in ("state", "action")] for suffix in ("s", "_weight", "_bias")
    ]
    shared = [case[name] for name in ("timesteps", "timestep_table", "norm_weight", "norm_bias")]
    o = launch.Operands(*kinds, *(x.to(DEVICE) for x in shared), 1, 1e-5)
    o = o._replace(**{name: [x.to(DEVICE) for x in getattr(o, name)] for name in o._fields[:3]})
    grad = torch.ones(3, 9, 16, device=DEVICE)
    sums = (2 + 1 + 4 + 1 + 2, 16)  # LayerNorm's two, then bias and weight of states and of actions
    assert [tuple(x.shape) for x in launch.backward(o, grad, [False, True], False)] == [sums, (15, 16)]
    assert [tuple(x.shape) for x in launch.backward(o, grad, [False, False], True)] == [sums, (9, 16)]


@pytest.mark.parametrize("few_steps", [0, 8192])
@pytest.mark.parametrize(("rows", "width", "steps"), [(70, 72, 300), (33, 16, 129), (1, 64, 5), (40, 99, 64)])
def test_the_gradient_of_the_table_either_way(monkeypatch, few_steps, rows, width, steps):
    """By looking at all steps for every tile of the table, and by sorting them; one row comes often."""
    monkeypatch.setattr(launch, "FEW_STEPS", few_steps)
    generator = torch.Generator().manual_seed(0)
    d_time = torch.randn(steps, width, generator=generator).to(DEVICE)
    row = torch.randint(0, rows, (steps,), generator=generator, dtype=torch.int32).to(DEVICE)
    row[: steps // 3] = 0
    found = launch._table_gradient(d_time, row, rows)
    wanted = torch.zeros(rows, width, dtype=torch.float64, device=DEVICE)
    wanted.index_put_((row.long(),), d_time.double(), accumulate=True)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(found, launch._table_gradient(d_time, row, rows))


@pytest.mark.parametrize("timestep", [-1, 9, 2**40])
def test_a_timestep_outside_the_table_gives_nan_there_alone(timestep):
    case = to_device(make_case(), DEVICE)
    wanted = embed_tokens(**case, backend="triton")
    case["timesteps"][1, 2] = timestep
    tokens = embed_tokens(**case, backend="triton")
    assert tokens[1, 6:9].isnan().all()
    other = torch.ones_like(tokens, dtype=torch.bool)
    other[1, 6:9] = False
    assert torch.equal(tokens[other], wanted[other])
    results(case, "triton")  # backward writes nothing outside its tensors either


def test_bits_do_not_depend_on_the_rest_of_the_batch(monkeypatch):
    """Nor on whether a program makes one kind of token or all, and they are the same each time."""
    case = to_device(make_case(batch=8, steps=7, width=64), DEVICE)
    if DEVICE == "cpu":  # the interpreter's products are those of BLAS: exact in any order for integers
        case = map_tensors(case, torch.round)
    first, again = results(case, "triton"), results(case, "triton")
    assert all(torch.equal(first[name], again[name]) for name in first)
    for row in (0, 5):
        of_row = {
            name: case[name][row : row + 1] for name in ("states", "actions", "returns_to_go", "timesteps")
        }
        tokens = embed_tokens(**(case | of_row), backend="triton")
        assert torch.equal(tokens.double(), first["tokens"][row : row + 1])
    monkeypatch.setattr(launch, "FEW_TILES", 0)
    assert torch.equal(embed_tokens(**case, backend="triton").double(), first["tokens"])


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("batch", [4, 2000])
def test_a_cuda_graph_holds_forward_and_backward(batch):
    """Also where the steps are sorted for the gradient of the table: nothing waits for the device."""
    case = map_tensors(to_device(make_case(batch=batch), DEVICE), lambda x: x.requires_grad_())
    assert (batch * 5 > launch.FEW_STEPS) == (batch == 2000)
    leaves = [x for x in case.values() if isinstance(x, torch.Tensor) and x.requires_grad]

    def run():
        tokens = embed_tokens(**case, backend="triton")
        return (tokens, *torch.autograd.grad(tokens.square().sum(), leaves))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        wanted = run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    graph.replay()
    assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))


def test_nothing_to_do():
    case = to_device(make_case(batch=0), DEVICE)
    found = results(case, "triton")
    assert found["tokens"].shape == (0, 14, 16)
    names = [name for name, x in case.items() if isinstance(x, torch.Tensor) and name != "timesteps"]
    assert all(found[name].shape == case[name].shape and (found[name] == 0).all() for name in names)


def test_tokens_all_alike_have_finite_gradients():
    case = map_tensors(to_device(make_case(), DEVICE), torch.zeros_like)
    assert all(x.isfinite().all() for x in check(case).values())


def test_there_is_no_second_derivative():
    case = map_tensors(to_device(make_case(), DEVICE), lambda x: x.requires_grad_())
    tokens = embed_tokens(**case, backend="triton")
    (first,) = torch.autograd.grad(tokens.square().sum(), case["states"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("width", [*WIDTHS, 8, 100])
@pytest.mark.parametrize("states", STATES)
def test_the_rule_covers_a_token(width, states):
    tiles = tiles_for(width, states)
    assert tiles.columns >= width and tiles.rows >= 16
    assert tiles.rows * tiles.columns // (32 * tiles.num_warps) <= 16  # numbers of a thread
    assert all(16 <= chunk_for(states, itemsize) <= 64 for itemsize in (2, 4))
