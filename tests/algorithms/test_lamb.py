"""LAMB against its formulas written out in float64 NumPy, and both gradient clips."""

import copy

import numpy as np
import pytest
import torch

from dtag_fast.algorithms.lamb import Lamb, clip_, trust_ratios

LR, BETAS, EPS = 1e-2, (0.9, 0.999), 1e-8


def by_hand(params, grads_per_step, weight_decay, max_norm=1.0):
    params = [p.copy() for p in params]
    m, v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    for t, grads in enumerate(grads_per_step, start=1):
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        scale = max_norm / norm if norm > max_norm else 1.0
        for i, g in enumerate(grads):
            m[i] = BETAS[0] * m[i] + (1 - BETAS[0]) * g * scale
            v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * (g * scale) ** 2
            u = (m[i] / (1 - BETAS[0] ** t)) / (np.sqrt(v[i] / (1 - BETAS[1] ** t)) + EPS)
            u = u + weight_decay * params[i]
            norms = np.linalg.norm(params[i]), np.linalg.norm(u)
            ratio = norms[0] / norms[1] if weight_decay != 0 and min(norms) > 0 else 1.0
            params[i] = params[i] - LR * ratio * u
    return params


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("grad_size", [0.01, 10.0], ids=["below-clip", "above-clip"])
def test_equals_the_formulas(weight_decay, grad_size):
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (), (2, 2)]
    start = [rng.normal(size=s) for s in shapes]
    start[1] = np.zeros(5)  # its norm is 0: ratio 1
    grads = [[grad_size * rng.normal(size=s) for s in shapes] for _ in range(6)]

    params = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in start]
    optimizer = Lamb(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=weight_decay)
    for step in grads:
        for p, g in zip(params, step, strict=True):
            p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    for p, expected in zip(params, by_hand(start, grads, weight_decay), strict=True):
        torch.testing.assert_close(p.detach(), torch.as_tensor(expected), rtol=1e-10, atol=1e-12)


def test_clip_is_global_over_groups():
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    Lamb([{"params": [a]}, {"params": [b], "lr": 0.1}]).step()
    torch.testing.assert_close((a.grad.item(), b.grad.item()), (0.6, 0.8))


def test_parameters_without_gradient_stay():
    used, idle = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    used.grad = torch.ones(2)
    Lamb([used, idle]).step()
    assert torch.equal(idle, torch.ones(2)) and not torch.equal(used, torch.ones(2))


@pytest.mark.parametrize("max_norm, expected", [(0.25, [0.15, 0.2]), (5.0, [3.0, 4.0]), (100.0, [3.0, 4.0])])
def test_clip(max_norm, expected):
    grads = [torch.tensor([3.0]), torch.tensor(4.0)]
    assert clip_(grads, max_norm) == 5.0
    torch.testing.assert_close([g.item() for g in grads], expected)


def test_trust_ratio_is_one_where_a_norm_is_zero():
    params = [torch.tensor([3.0, 4.0]), torch.zeros(2), torch.ones(2)]
    updates = [torch.tensor([0.0, 2.0]), torch.ones(2), torch.zeros(2)]
    assert [r.item() for r in trust_ratios(params, updates)] == [2.5, 1.0, 1.0]


def test_the_clip_of_a_stack_is_that_of_each_seed():
    """Three seeds, of which one is clipped, one is not, and one has no gradient."""
    of_seeds = [[torch.tensor([3.0 * k]), torch.tensor(4.0 * k)] for k in (1.0, 0.1, 0.0)]
    stack = [torch.stack(parts) for parts in zip(*of_seeds, strict=True)]
    norms = clip_(stack, 2.0, stacked=True)
    assert norms.tolist() == pytest.approx([clip_(grads, 2.0).item() for grads in of_seeds])
    for i, grads in enumerate(of_seeds):
        torch.testing.assert_close([x[i] for x in stack], grads)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_stack_is_trained_as_its_seeds_are(capturable):
    """Clips and ratios are those of each; one seed starts at 0, where the ratio is 1."""
    apart = [[(p.detach() * k).requires_grad_() for p in start()] for k in (1.0, 3.0, 0.0)]
    stack = [torch.stack([p.detach() for p in parts]).requires_grad_() for parts in zip(*apart, strict=True)]
    together = Lamb(stack, lr=0.1, capturable=capturable)
    together.stacked = True
    alone = [Lamb(params, lr=0.1, capturable=capturable) for params in apart]
    for step in range(6):
        for k, params in enumerate(apart):
            generator = torch.Generator().manual_seed(10 * step + k)
            for p in params:
                p.grad = 10.0 ** (k - 1) * torch.randn(p.shape, generator=generator)
        for i, p in enumerate(stack):
            p.grad = torch.stack([params[i].grad for params in apart])
        for optimizer in (together, *alone):
            optimizer.step()
    for i, p in enumerate(stack):
        torch.testing.assert_close(p, torch.stack([params[i] for params in apart]))


@pytest.mark.parametrize("options", [{"betas": (1.0, 0.9)}, {"max_grad_norm": 0.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Lamb([torch.ones(1)], **options)


SHAPES = [(3, 4), (5,), (), (2, 2)]


def descend(params, optimizer, steps, first=0):
    """Steps with gradients that depend on the parameters and on the step, some of them clipped."""
    for i in range(first, first + steps):
        generator = torch.Generator().manual_seed(i)
        for p in params:
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.grad = (0.1 if i % 3 else 10.0) * (noise + p.detach())
        optimizer.step()


def start(dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in SHAPES]


def make(params, capturable, **options):
    lr = torch.tensor(LR) if capturable else LR
    return Lamb(params, lr=lr, capturable=capturable, **options)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_capturable_is_the_same_within_rounding(weight_decay):
    plain, captured = start(), start()
    descend(plain, make(plain, False, weight_decay=weight_decay), 200)
    descend(captured, make(captured, True, weight_decay=weight_decay), 200)
    torch.testing.assert_close(captured, plain)
    assert not any(torch.equal(a, b) for a, b in zip(plain, start(), strict=True))


def test_a_tensor_of_the_learning_rate_is_followed():
    params, expected = start(), start()
    optimizer, plain = make(params, True), make(expected, False)
    for i, lr in enumerate((1e-2, 0.0, 3e-2)):
        optimizer.param_groups[0]["lr"].fill_(lr)
        plain.param_groups[0]["lr"] = lr
        descend(params, optimizer, 1, i)
        descend(expected, plain, 1, i)
    torch.testing.assert_close(params, expected)


@pytest.mark.parametrize("capturable", [False, True])
def test_state_moves_to_another_optimizer(capturable):
    whole, parts = start(), start()
    descend(whole, make(whole, capturable), 9)
    first = make(parts, capturable)
    descend(parts, first, 4)
    second = make(parts, capturable)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    descend(parts, second, 5, first=4)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert int(second.param_groups[0]["step"]) == 9


@pytest.mark.parametrize("capturable", [False, True])
def test_counts_of_older_states_per_parameter_are_taken_over(capturable):
    whole, parts = start(), start()
    descend(whole, make(whole, capturable), 9)
    first = make(parts, capturable)
    descend(parts, first, 4)
    old = copy.deepcopy(first.state_dict())
    del old["param_groups"][0]["step"]
    for state in old["state"].values():
        state["step"] = 4
    if not capturable:
        del old["param_groups"][0]["capturable"]
    second = make(parts, capturable)
    second.load_state_dict(old)
    descend(parts, second, 5, first=4)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert all("step" not in state for state in second.state.values())


def test_the_count_of_a_group_added_later_lies_on_the_device_too():
    a, b = start()[:2]
    optimizer = make([a], True)
    optimizer.add_param_group({"params": [b]})
    assert all(isinstance(group["step"], torch.Tensor) for group in optimizer.param_groups)
