"""The decoder against the model on literal windows, for rollouts that start, pause and end independently."""

import numpy as np
import pytest
import torch

from dtag_fast.models import (
    DecisionTransformer,
    DecisionTransformerConfig,
    Decoder,
    OnlineDecisionTransformer,
    OnlineDecisionTransformerConfig,
    Reinformer,
    ReinformerConfig,
)

N, S, A = 4, 3, 2
STYLES = {
    "dt": (DecisionTransformer, DecisionTransformerConfig, {}),
    "gpt2": (DecisionTransformer, DecisionTransformerConfig, {"norm": "pre", "activation": "relu"}),
    "reinformer": (Reinformer, ReinformerConfig, {}),
    "odt": (OnlineDecisionTransformer, OnlineDecisionTransformerConfig, {"padding": "right"}),
    "dt-discrete": (DecisionTransformer, DecisionTransformerConfig, {"discrete": True}),
    "reinformer-discrete": (Reinformer, ReinformerConfig, {"discrete": True}),
    "reinformer-no-timesteps": (Reinformer, ReinformerConfig, {"timestep_embedding": False}),
}


def make(style, k, n_layer=2):
    torch.manual_seed(3)
    model, config, options = STYLES[style]
    sizes = {"state_dim": S, "action_dim": A, "context_len": k, "max_timestep": 99}
    return model(config(**sizes, d_model=16, n_layer=n_layer, n_head=2, **options)).eval()


class Rollout:
    """A history that grows, and the window of it that a model acts on."""

    def __init__(self):
        self.states, self.actions, self.returns = [], [], []

    def window(self, k):
        steps = range(max(len(self.states) - k, 0), len(self.states))
        pad = k - len(steps)
        columns = [[part[t] for t in steps] for part in (self.states, self.actions, self.returns)]
        tensors = [torch.stack([*column, *[torch.zeros_like(column[0])] * pad]) for column in columns]
        times = torch.tensor([*steps, *[0] * pad])
        return [x[None] for x in (*tensors, times, torch.arange(k) < len(steps))]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("k", "n_layer"), [(1, 2), (2, 3), (5, 1), (5, 3)])
@pytest.mark.parametrize("by", ["age", "slide", "compiled"])
def test_every_step_equals_the_model_on_the_window(style, k, n_layer, by):
    rng, g = np.random.default_rng(k), torch.Generator().manual_seed(k)
    model = make(style, k, n_layer)
    decoder, grown = Decoder(model, N), [Rollout() for _ in range(N)]
    compared = {True: 0, False: 0}
    for step in range(40):
        for row in np.flatnonzero(rng.random(N) < 0.05):
            grown[row] = Rollout()
            decoder.reset(torch.tensor([row]))
        if step == 20:
            with torch.no_grad():
                model.embed_state.weight.mul_(1.1)  # trained in between: what was kept is stale
            assert decoder.stale()
            decoder.refill(*rings(grown, k))
        assert not decoder.stale()
        chosen = rng.random(N) < 0.8
        for full in (False, True):
            rows = [r for r in np.flatnonzero(chosen) if (len(grown[r].states) >= k) == full]
            if by != "age":  # any age together
                rows = np.flatnonzero(chosen).tolist() if full else []
            if not rows:
                continue
            states, returns = torch.randn(len(rows), S, generator=g), torch.rand(len(rows), 1, generator=g)
            times = torch.tensor([len(grown[r].states) for r in rows])
            previous = [grown[r].actions[-1] if grown[r].actions else torch.zeros(A) for r in rows]
            arguments = (
                None if rows == list(range(N)) else torch.tensor(rows),
                times,
                torch.stack(previous),
                states,
                None if model.predicts_returns else returns,
            )
            with torch.inference_mode():
                if by == "compiled":
                    assert decoder.compiled
                    acted = decoder.act(*arguments)
                elif full:
                    acted = decoder.slide(*arguments, all_full=by == "age")
                else:
                    acted = decoder.decode(*arguments)
            for i, row in enumerate(rows):
                rollout = grown[row]
                rollout.states.append(states[i])
                rollout.returns.append(returns[i])
                rollout.actions.append(torch.zeros(A))
                action, predicted = model.act(*rollout.window(k))
                torch.testing.assert_close(acted[0][i : i + 1], action, rtol=1e-4, atol=1e-5)
                if model.predicts_returns:
                    torch.testing.assert_close(acted[1][i : i + 1], predicted, rtol=1e-4, atol=1e-5)
                    rollout.returns[-1] = acted[1][i].clone()
                rollout.actions[-1] = torch.rand(A, generator=g) * 2 - 1  # refined: not what it chose
                compared[full] += 1
    assert compared[True] > 20 and (by != "age" or compared[False] > 3)


def rings(grown, k):
    """What `refill` takes."""
    states, actions, returns = torch.zeros(N, k, S), torch.zeros(N, k, A), torch.zeros(N, k, 1)
    times = torch.zeros(N, k, dtype=torch.int64)
    for row, rollout in enumerate(grown):
        for t in range(max(len(rollout.states) - k, 0), len(rollout.states)):
            states[row, t % k], actions[row, t % k] = rollout.states[t], rollout.actions[t]
            returns[row, t % k], times[row, t % k] = rollout.returns[t], t
    return states, actions, returns, times


def test_what_is_not_finite_does_not_outlive_its_episode():
    model = make("dt", 3)
    decoder = Decoder(model, 1)
    nothing, returns = torch.zeros(1, A), torch.ones(1, 1)
    with torch.inference_mode():
        for t in range(3):
            decoder.decode(None, torch.tensor([t]), nothing, torch.full((1, S), torch.nan), returns)
        decoder.reset(torch.tensor([0]))
        action, _ = decoder.decode(None, torch.tensor([0]), nothing, torch.ones(1, S), returns)
    assert action.isfinite().all()
