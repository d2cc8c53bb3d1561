"""The step that a GPU replays as one graph: the same actions as the policy followed by refine."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dtag_fast.models.behaviour import Behaviour, BehaviourModel
from dtag_fast.rollout import AGSetting, SequencePolicy, evaluate
from dtag_fast.rollout.captured import CapturedStep, why_not_captured
from dtag_fast.rollout.refinement import Refinement

N = 4
SETTINGS = [AGSetting(0), AGSetting(3, lr=0.2), AGSetting(5, lr=0.05)]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


MIXED = [
    AGSetting(0, reduce="mean"),
    AGSetting(3, lr=0.05, optimizer="adam"),
    AGSetting(5, lr=0.05, reduce=1, gradient="unit", radius=0.2),
]


REGULARISED = [
    AGSetting(0),
    AGSetting(3, behaviour=Behaviour(0.4, 0.5)),
    AGSetting(5, lr=0.05),
]


def parts(policy, critic, device, settings=SETTINGS):
    model = policy.model.to(device)
    target = 50.0 if model.takes_target_return else None
    actors = [SequencePolicy(model, N, target) for _ in range(2)]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        behaviour = BehaviourModel(3, policy.info.action_dim, hidden=(8,))
    network = critic.critic.to(device)
    refinement = Refinement(network, (-1.0, 1.0), settings, device, behaviour=behaviour)
    return actors, refinement, target


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "given", [SETTINGS, MIXED, REGULARISED], ids=["one variant", "three variants", "regularised"]
)
def test_a_step_equals_the_policy_followed_by_refine(policy, critic, device, given):
    """Rollouts of any age, some waiting, some starting again; weights change in the middle."""
    (usual, mine), refinement, target = parts(policy, critic, device, given)
    captured = CapturedStep(mine, refinement, capture=device == "cuda")
    rng, settings = np.random.default_rng(1), np.array([0, 1, 2, 1])
    gained = 0.0
    for number in range(16):
        over = rng.random(N) < 0.15
        for actor in (usual, mine):
            actor.reset(over, target)
        if number == 8:
            with torch.no_grad():
                policy.model.action_head.weight.mul_(-0.5)
                for weight in critic.critic.parameters():
                    weight.mul_(1.1)
        active = rng.random(N) < 0.8
        if not active.any():
            continue
        observations, rewards = rng.normal(size=(N, 3)).astype("f4"), rng.normal(size=N)
        actions = usual.act(observations, active)
        expected = refinement(observations[active], actions[active], settings[active])
        found = captured.act(observations, active, settings)
        for a, b in zip(found, expected, strict=True):
            assert np.allclose(a, b, rtol=1e-4, atol=1e-4)
        actions[active] = expected.actions
        gained += float((found.q_best - found.q_0).sum())
        for actor in (usual, mine):
            actor.record(actions, rewards, active)
    assert gained > 0


@pytest.mark.parametrize("device", DEVICES)
def test_without_a_refinement_the_actions_are_the_policys(policy, critic, device):
    (usual, mine), _, _ = parts(policy, critic, device)
    captured = CapturedStep(mine, None, capture=device == "cuda")
    observations, active = np.ones((N, 3), "f4"), np.array([True, False, True, True])
    actions = usual.act(observations, active)[active]
    found = captured.act(observations, active, np.zeros(N, np.int64))
    assert np.allclose(found.actions, actions, rtol=1e-4, atol=1e-5) and not found.q_best.any()


class NothingOnTheHost(TorchDispatchMode):
    """Fails where the host would look at a number or make a tensor from one: a graph cannot repeat that."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "lift_fresh", "unique")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        assert not name.startswith(self.FORBIDDEN), f"{name} looks at numbers on the host"
        return function(*args, **(kwargs or {}))


def test_the_policys_part_never_looks_at_a_number(policy):
    model = policy.model
    actor = SequencePolicy(model, N, 50.0 if model.takes_target_return else None)
    captured = CapturedStep(actor, None, capture=False)
    # Inference mode hides operators from a dispatch mode; the arithmetic is the same without it.
    with NothingOnTheHost(), torch.no_grad():
        captured._compute()
        with pytest.raises(AssertionError, match="_local_scalar_dense looks at numbers"):
            captured._out.sum().item()


def test_the_reason_for_no_graph_is_kept(policy, critic):
    result = evaluate(policy, critic=critic, settings=SETTINGS[:1], episodes=2)
    if not torch.cuda.is_available():
        assert result.wall_time.not_captured == "CUDA graphs need a GPU, the policy is on cpu"
    assert result.to_dict()["wall_time"]["not_captured"] == result.wall_time.not_captured


def test_every_reason_has_its_sentence(policy, critic):
    assert Refinement(critic.critic, (-1.0, 1.0), MIXED).why_not_captured(3, 2) is None
    several = [AGSetting(1), AGSetting(1, optimizer="adam")]
    slow = Refinement(torch.nn.Bilinear(3, 2, 1), (-1.0, 1.0), several)
    with pytest.warns(RuntimeWarning, match="slow autograd reference"):
        assert slow.why_not_captured(3, 2).startswith("refine runs on the autograd reference: ")
    target = 1.0 if policy.model.takes_target_return else None
    whole = SequencePolicy(policy.model, 1, target, incremental=False)
    whole.device = torch.device("cuda")  # what it would say there
    assert "incremental=False" in why_not_captured(whole, None)


def test_a_bad_action_is_refused(policy):
    model = policy.model
    actor = SequencePolicy(model, N, 50.0 if model.takes_target_return else None)
    captured = CapturedStep(actor, None, capture=False)
    model.embed_state.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="policy: it gave an action that is not finite"):
        captured.act(np.ones((N, 3), "f4"), np.ones(N, bool), np.zeros(N, np.int64))
