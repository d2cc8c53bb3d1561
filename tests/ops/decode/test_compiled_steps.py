"""Steps of the compiled module against the model on literal windows: every instruction set, shape and age."""

import threading
from functools import partial

import pytest
import torch

from dtag_fast.models import (
    DecisionTransformer,
    DecisionTransformerConfig,
    Decoder,
    Reinformer,
    ReinformerConfig,
)
from dtag_fast.models.compiled_step import step_config, step_weights
from dtag_fast.ops.decode import CompiledSteps, Rings

_C = pytest.importorskip("dtag_fast._C", reason="the compiled module is not built")
ISAS = [*_C.isas(), "emulated512"]
BF16_ISAS = [*_C.isas(), "emulated512bf16", "emulated512amx"]
KINDS = {
    "dt": (DecisionTransformer, DecisionTransformerConfig, {}),
    "gpt2": (DecisionTransformer, DecisionTransformerConfig, {"norm": "pre", "activation": "relu"}),
    "reinformer": (Reinformer, ReinformerConfig, {}),
    "dt-discrete": (DecisionTransformer, DecisionTransformerConfig, {"discrete": True}),
    "reinformer-discrete": (Reinformer, ReinformerConfig, {"discrete": True}),
}
# Widths that fill no panel, heads that fill no vector, windows of one step and of more than a group holds.
SHAPES = [
    {"d_model": 128, "n_head": 1, "n_layer": 3, "context_len": 20},
    {"d_model": 40, "n_head": 5, "n_layer": 2, "context_len": 7, "state_dim": 1, "action_dim": 1},
    {"d_model": 66, "n_head": 3, "n_layer": 1, "context_len": 5, "state_dim": 40, "action_dim": 33},
    {"d_model": 1, "n_head": 1, "n_layer": 2, "context_len": 2},
    {"d_model": 32, "n_head": 1, "n_layer": 2, "context_len": 1},
    {"d_model": 48, "n_head": 2, "n_layer": 2, "context_len": 45},
]


def make(kind: str, low=None, high=None, **shape) -> DecisionTransformer | Reinformer:
    torch.manual_seed(1)
    model, config, options = KINDS[kind]
    sizes = {"state_dim": 5, "action_dim": 2, "max_timestep": 200} | shape
    made = model(config(**sizes, **options), action_low=low, action_high=high).eval()
    with torch.no_grad():  # weights that differ from layer to layer, biases and norms included
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def empty_rings(model, rollouts: int) -> Rings:
    c = model.config
    shape, heads = (rollouts, 3 * c.context_len), (c.n_head, c.d_model // c.n_head)
    kept = [torch.zeros(*shape, 2, *heads) for _ in range(c.n_layer - 1)]
    return Rings(torch.zeros(*shape, c.d_model), torch.zeros(*shape, 3, *heads), kept)


def compiled(
    model, rollouts: int, isa: str | None = None, precision: str = "fp32", weights: dict | None = None
) -> CompiledSteps:
    weights, rings = weights or step_weights(model), empty_rings(model, rollouts)
    return CompiledSteps(step_config(model), weights, rings, precision=precision, isa=isa)


class Episodes:
    """What R rollouts have seen and done so far, at random, each as old as it wants to be."""

    def __init__(self, model, rollouts: int, longest: int):
        c, g = model.config, torch.Generator().manual_seed(2)
        self.model, self.states = model, torch.randn(rollouts, longest, c.state_dim, generator=g)
        self.actions = torch.rand(rollouts, longest, c.action_dim, generator=g) * 2 - 1
        self.returns = torch.rand(rollouts, longest, 1, generator=g)

    def inputs(self, rows, times):
        """What `step` takes of rollouts `rows` at `times`."""
        previous = self.actions[rows, (times - 1).clamp(min=0)]
        returns = None if self.model.predicts_returns else self.returns[rows, times]
        return rows, times, previous, self.states[rows, times], returns

    def by_the_model(self, rows, times):
        acted = []
        for row, t in zip(rows.tolist(), times.tolist(), strict=True):
            steps = torch.arange(max(t - self.model.config.context_len + 1, 0), t + 1)
            parts = [part[row, steps][None] for part in (self.states, self.actions, self.returns)]
            rest = steps[None], torch.ones(1, len(steps), dtype=torch.bool)
            action, predicted = self.model.act(*parts, *rest)
            if self.model.config.discrete:  # the compiled step gives what the head says
                if predicted is not None:
                    parts[2][:, -1] = predicted
                action = self.model(*parts, *rest).action_logits[:, -1].detach()
            acted.append((action, predicted))
        return [None if part[0] is None else torch.cat(part) for part in zip(*acted, strict=True)]


def run(steps, episodes, schedule):
    """Results of `steps` over a schedule of (rows, times), predicted returns taken into the episodes."""
    results = []
    for rows, times in schedule:
        actions, predicted = steps.step(*episodes.inputs(rows, times))
        if predicted is not None:
            episodes.returns[rows, times] = predicted
        results.append((actions, predicted))
    return results


def together(rollouts: int, longest: int, lag: int = 1):
    """Rollout r starts r * lag steps after the first; all that have started take every step together."""
    for now in range(longest + lag * (rollouts - 1)):
        rows = [r for r in range(rollouts) if 0 <= now - lag * r < longest]
        yield torch.tensor(rows), torch.tensor([now - lag * r for r in rows])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s.values())))
def test_every_step_equals_the_model(kind, shape):
    """On every instruction set; the model, which takes most of the time, is asked once for all."""
    model = make(kind, **shape)
    longest = 2 * model.config.context_len + 2
    episodes = Episodes(model, 3, longest)
    makers = [compiled(model, 3, isa) for isa in ISAS]
    assert [steps.isa for steps in makers] == ISAS
    for rows, times in together(3, longest, lag=2):
        inputs = episodes.inputs(rows, times)
        results = [steps.step(*inputs) for steps in makers]
        expected, returns = episodes.by_the_model(rows, times)
        for isa, (actions, predicted) in zip(ISAS, results, strict=True):
            torch.testing.assert_close(
                actions, expected, rtol=1e-4, atol=2e-5, msg=lambda text, isa=isa: f"{isa}: {text}"
            )
            if predicted is not None:
                torch.testing.assert_close(predicted, returns, rtol=1e-4, atol=2e-5)
        if returns is not None:
            episodes.returns[rows, times] = returns


def of_bf16(weights: dict) -> dict:
    """The blocks' matrices at bf16 values, all else as it is."""
    return {
        name: w.bfloat16().float() if name.startswith("blocks.") and w.ndim == 2 else w
        for name, w in weights.items()
    }


@pytest.mark.parametrize("isa", BF16_ISAS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s.values())))
def test_bf16_steps_are_near_those_of_rounded_weights(kind, shape, isa):
    """And no two instruction sets further from each other: the order of sums is all they differ in. That
    bf16 is used at all is seen in the bits."""
    model = make(kind, **shape)
    longest = 2 * model.config.context_len + 2
    episodes, weights = Episodes(model, 3, longest), step_weights(model)
    steps = compiled(model, 3, isa, "bf16")
    exact = compiled(model, 3, "baseline", weights=of_bf16(weights))
    other = compiled(model, 3, "baseline", "bf16")
    far, near, size = 0.0, 0.0, 0.0
    for rows, times in together(3, longest, lag=2):
        inputs = episodes.inputs(rows, times)
        (a, predicted), (b, _), (c, _) = (maker.step(*inputs) for maker in (steps, exact, other))
        far, near = max(far, (a - b).abs().max().item()), max(near, (a - c).abs().max().item())
        size = max(size, b.abs().max().item())
        if predicted is not None:
            episodes.returns[rows, times] = predicted
    assert far <= 3e-2 * max(size, 1.0) and near <= 3e-2 * max(size, 1.0)
    assert far > 0.0 or model.config.d_model == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("isa", [None, "emulated512amx", "emulated512bf16", "baseline"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rollouts_bits_depend_on_no_other(kind, isa, precision):
    """Alone, in groups, in any order of the rows, on one thread or two."""
    model = make(kind, d_model=48, n_head=3, n_layer=2, context_len=6)
    n, longest = 40, 14
    make_steps = partial(compiled, isa=isa, precision=precision)
    before = torch.get_num_threads()
    try:
        results = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results[threads] = run(make_steps(model, n), Episodes(model, n, longest), together(n, longest))
        for one, two in zip(results[1], results[2], strict=True):
            assert all(a is b is None or torch.equal(a, b) for a, b in zip(one, two, strict=True))
        shuffled = [(o := torch.randperm(len(r)), (r[o], t[o])) for r, t in together(n, longest)]
        mixed = run(make_steps(model, n), Episodes(model, n, longest), [part for _, part in shuffled])
        for (order, _), result, expected in zip(shuffled, mixed, results[1], strict=True):
            assert torch.equal(result[0], expected[0][order])
    finally:
        torch.set_num_threads(before)
    for row in (0, 17, 39):
        alone = [(torch.tensor([row]), torch.tensor([t])) for t in range(longest)]
        actions = torch.cat([a for a, _ in run(make_steps(model, n), Episodes(model, n, longest), alone)])
        everyone = zip(together(n, longest), results[1], strict=True)
        assert torch.equal(actions, torch.cat([a[rows == row] for (rows, _), (a, _) in everyone]))


def test_bounds_and_new_weights():
    model = make("dt", low=[-2.0, 0.5], high=[3.0, 4.0], d_model=32, n_head=2, n_layer=2, context_len=4)
    episodes, steps = Episodes(model, 1, 9), compiled(model, 1)
    rows = torch.tensor([0])
    for t in range(3):
        steps.step(*episodes.inputs(rows, torch.tensor([t])))
    with torch.no_grad():
        model.action_head.weight.mul_(-3.0)  # of what is kept nothing depends on it
    steps.repack(step_weights(model))
    actions, _ = steps.step(*episodes.inputs(rows, torch.tensor([3])))
    torch.testing.assert_close(
        actions, episodes.by_the_model(rows, torch.tensor([3]))[0], rtol=1e-4, atol=1e-4
    )
    assert (actions >= torch.tensor([-2.0, 0.5])).all() and (actions <= torch.tensor([3.0, 4.0])).all()


def test_numbers_that_are_not_finite_stay_in_their_rollout():
    model = make("dt", d_model=32, n_head=2, n_layer=2, context_len=4)
    clean, spoilt = Episodes(model, 3, 10), Episodes(model, 3, 10)
    spoilt.states[1, 5] = torch.nan
    schedule = list(together(3, 10))
    expected, results = (run(compiled(model, 3), e, schedule) for e in (clean, spoilt))
    for (rows, times), (a, _), (b, _) in zip(schedule, expected, results, strict=True):
        inside = (rows == 1) & (times >= 5) & (times < 5 + 4)
        assert torch.equal(a[~inside], b[~inside])
        assert b[inside].isnan().all()


def test_everyone_without_rows():
    model = make("reinformer", d_model=32, n_head=2, n_layer=2, context_len=3)
    episodes = Episodes(model, 5, 4)
    named, unnamed = compiled(model, 5), compiled(model, 5)
    rows = torch.arange(5)
    for t in range(4):
        arguments = episodes.inputs(rows, torch.full((5,), t))
        for a, b in zip(named.step(*arguments), unnamed.step(None, *arguments[1:]), strict=True):
            assert torch.equal(a, b)
    assert unnamed.step(None, *(x if x is None else x[:0] for x in arguments[1:]))[0].shape == (0, 2)


def test_wrong_input_is_named():
    model = make("dt", d_model=32, n_head=2, n_layer=2, context_len=3)
    steps, (rows, times, previous, states, returns) = (
        compiled(model, 2),
        Episodes(model, 2, 3).inputs(torch.arange(2), torch.zeros(2, dtype=torch.int64)),
    )
    with pytest.raises(ValueError, match=r"timesteps: expected 0..199 \(max_timestep\), got 200"):
        steps.step(rows, times + 200, previous, states, returns)
    with pytest.raises(ValueError, match=r"rows: expected rollouts 0..1, got 2"):
        steps.step(rows + 1, times, previous, states, returns)
    with pytest.raises(ValueError, match="rows: there are fewer rollouts"):
        steps.step(None, *(x.repeat(2, *[1] * (x.ndim - 1)) for x in (times, previous, states, returns)))
    with pytest.raises(
        ValueError, match=r"returns_to_go: expected \(2, 1\) of torch.float32 on the CPU, got None"
    ):
        steps.step(rows, times, previous, states, None)
    with pytest.raises(ValueError, match=r"states: expected \(2, 5\) of torch.float32"):
        steps.step(rows, times, previous, states.double(), returns)
    weights = step_weights(model)
    with pytest.raises(ValueError, match=r"blocks.1.out.bias: missing among the weights"):
        steps.repack({name: w for name, w in weights.items() if name != "blocks.1.out.bias"})
    with pytest.raises(
        ValueError, match=r"action_head.weight: expected a C-contiguous float32 array \(2, 32\)"
    ):
        steps.repack(weights | {"action_head.weight": torch.zeros(3, 32)})
    rings = empty_rings(model, 2)
    with pytest.raises(ValueError, match=r"rings.projected: expected 1728 contiguous float32 numbers"):
        CompiledSteps(step_config(model), weights, rings._replace(projected=rings.projected[:, 1:]))
    with pytest.raises(ValueError, match="kept: expected a ring for each block but the first"):
        CompiledSteps(step_config(model), weights, rings._replace(kept=[]))
    with pytest.raises(ValueError, match=r"precision: .*fp8"):
        compiled(model, 2, precision="fp8")
    with pytest.raises(
        ValueError, match=r"precision: bf16 steps are those of the compiled module, which .*sdpa"
    ):
        model.attention = "sdpa"
        Decoder(model, 1, "bf16")


def test_two_threads_at_once_are_refused_or_ordered():
    model = make("dt", d_model=128, n_head=1, n_layer=3, context_len=20)
    steps = compiled(model, 64)
    arguments = Episodes(model, 64, 30).inputs(torch.arange(64), torch.full((64,), 25))
    errors = []

    def step():
        for _ in range(5):
            try:
                steps.step(*arguments)
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=step) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(errors) <= {"step: another thread is taking a step with these rollouts"}
    steps.step(*arguments)


def test_the_decoder_says_how_it_steps():
    model = make("dt", d_model=32, n_head=2, n_layer=2, context_len=3)
    assert Decoder(model, 1).explain() == f"steps: one call of the compiled module ({_C.default_isa()}, fp32)"
    decoder = Decoder(model, 1)
    model.attention = "sdpa"
    assert not decoder.compiled
    assert decoder.explain() == "steps: operator by operator (attention='sdpa' was asked for)"
    model.attention = None
    assert decoder.compiled
    double = make("dt", d_model=32, n_head=2, n_layer=2, context_len=3).double()
    assert "it computes in float32, a parameter is torch.float64" in Decoder(double, 1).explain()
