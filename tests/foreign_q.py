"""What every critic of another library must pass once it is one of ours."""

import torch

import dtag_fast


def random_pairs(state_dim, action_dim, rows=7, seed=3):
    """states (rows, S) not centred at 0, actions (rows, A) in -1..1."""
    generator = torch.Generator().manual_seed(seed)
    states = 2 * torch.randn(rows, state_dim, generator=generator) + 1
    return states, torch.rand(rows, action_dim, generator=generator) * 2 - 1


def assert_q(critic, q, rows=7):
    """The members of `critic` equal q(states, actions) -> (E, rows), within 1e-5 of the largest number."""
    states, actions = random_pairs(critic.state_dim, critic.action_dim, rows)
    ours = torch.cat(critic(states, actions), dim=-1).T
    theirs = torch.as_tensor(q(states, actions)).detach().float()
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-3, "a Q that is constant shows nothing"
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, theirs.abs().max().item())


def assert_climbs(critic, q, steps=4, lr=0.03):
    """`critic` runs on the compiled backend, and `refine` gives what a loop of autograd gives on their own q.

    Args:
        q: differentiable, (states, actions) -> (E, rows).
    """
    states, actions = random_pairs(critic.state_dim, critic.action_dim)
    explained = dtag_fast.explain(critic, states, actions)
    assert explained.lowered and explained.backend == "cpu", str(explained)
    ours = dtag_fast.refine(critic, states, actions, steps=steps, lr=lr)
    torch.testing.assert_close(ours, climbed(q, states, actions, steps, lr), rtol=1e-4, atol=1e-5)
    assert not torch.equal(ours, actions)


def climbed(q, states, actions, steps, lr):
    """Action Gradient by autograd on the smallest member: the best of the iterates, the first on ties."""
    best, greatest = actions, None
    for i in range(steps + 1):
        leaf = actions.clone().requires_grad_()
        values = q(states, leaf).min(0).values
        (slope,) = torch.autograd.grad(values.sum(), leaf)
        values = values.detach()
        if greatest is None:
            greatest = values
        better = values > greatest
        best = torch.where(better[:, None], actions, best)
        greatest = torch.where(better, values, greatest)
        if i < steps:
            actions = (actions + lr * slope).clamp(-1, 1)
    return best
