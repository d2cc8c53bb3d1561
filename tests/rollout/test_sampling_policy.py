"""Acting with draws from the policy: in compiled steps as over whole windows."""

import numpy as np
import pytest
import torch

from dtag_fast.models import OnlineDecisionTransformer, OnlineDecisionTransformerConfig
from dtag_fast.rollout.exploration import SamplingPolicy


@pytest.mark.parametrize("bounds", [(), ([-3.0, 0.0], [1.0, 5.0])])
@pytest.mark.parametrize("norm, timesteps", [("pre", False), ("post", True)])
def test_compiled_steps_draw_what_windows_do(bounds, norm, timesteps):
    """Over more steps than the context has, with a rollout that starts anew and weights that change."""
    torch.manual_seed(0)
    sizes = {"state_dim": 5, "action_dim": 2, "context_len": 3, "d_model": 16, "n_layer": 2, "n_head": 2}
    config = OnlineDecisionTransformerConfig(
        **sizes, norm=norm, timestep_embedding=timesteps, max_timestep=32
    )
    model = OnlineDecisionTransformer(config, np.full(5, 0.3), np.full(5, 2.0), *bounds)
    model.log_std_head.bias.data.normal_()
    over_windows = SamplingPolicy(model, 4, 10.0)
    over_windows.decoder = None
    in_steps = SamplingPolicy(model, 4, 10.0)
    assert in_steps.decoder is not None and in_steps.decoder.compiled
    rng, everyone = np.random.default_rng(0), np.ones(4, bool)
    for step in range(8):
        active = everyone if step != 5 else np.array([True, False, True, True])
        if step == 3:
            for policy in (over_windows, in_steps):
                policy.reset(np.arange(4) == 1, 20.0, 7)
        if step == 6:
            with torch.no_grad():
                model.log_std_head.bias += 0.5
                model.embed_state.weight *= 1.1
        states, rewards = rng.normal(size=(4, 5)), rng.normal(size=4)
        ours, theirs = (policy.act(states, active) for policy in (in_steps, over_windows))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        assert np.abs(ours[active]).max() > 0.01
        for policy in (over_windows, in_steps):
            policy.record(theirs, rewards, active)


def test_with_an_attention_of_ones_own_it_goes_over_windows():
    config = OnlineDecisionTransformerConfig(state_dim=3, action_dim=1, context_len=2, d_model=8, n_head=2)
    model = OnlineDecisionTransformer(config, attention="sdpa")
    policy = SamplingPolicy(model, 2, 1.0)
    assert policy.decoder is None
    assert np.isfinite(policy.act(np.ones((2, 3)), np.ones(2, bool))).all()
