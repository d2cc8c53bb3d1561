"""A small Markov decision process in layers, and everything about it that can be known exactly.

H steps, S states in each layer, A actions, rewards 0, 1, ..., M. From (t, s, a) the process does what a
fixed table says, except with probability eps, when reward and next state are drawn uniformly. So it is
eps-near to a deterministic one in the sense of Brandfonbrener et al. (2022, arXiv 2206.01079), and every
return from 0 to H M has a positive probability. Episodes start in state 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class LayeredMDP:
    """The tables; made by `random_mdp`.

    Attributes:
        next_state: (H, S, A) int, state of layer t + 1 by the table; unused at t = H - 1.
        reward: (H, S, A) int in [0, max_reward].
        behaviour: (H, S, A), the data's policy, rows add up to 1.
        eps: probability that the table does not decide. max_reward: M.
    """

    next_state: np.ndarray
    reward: np.ndarray
    behaviour: np.ndarray
    eps: float
    max_reward: int

    @property
    def horizon(self) -> int:
        return self.reward.shape[0]

    @property
    def num_states(self) -> int:
        return self.reward.shape[1]

    @property
    def num_actions(self) -> int:
        return self.reward.shape[2]

    @property
    def max_return(self) -> int:
        """The greatest return that has a positive probability, H M."""
        return self.horizon * self.max_reward

    def outcomes(self) -> np.ndarray:
        """P(r, s' | t, s, a), shape (H, S, A, M + 1, S)."""
        rewards, states = self.max_reward + 1, self.num_states
        shape = (*self.reward.shape, rewards, states)
        found = np.full(shape, self.eps / (rewards * states))
        t, s, a = np.indices(self.reward.shape)
        found[t, s, a, self.reward, self.next_state] += 1 - self.eps
        return found


class ConditionedPolicy(NamedTuple):
    """pi(a | t, s, g).

    Attributes:
        given: (H, S, G, A), for returns-to-go g = 0 .. G - 1.
        otherwise: (H, S, A), for all others: who asks for the impossible conditions on nothing.
    """

    given: np.ndarray
    otherwise: np.ndarray


class Steps(NamedTuple):
    """Episodes of an MDP; states, actions, rewards are (N, H) int."""

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray

    @property
    def returns_to_go(self) -> np.ndarray:
        """(N, H) sums of the rewards from each step on."""
        return self.rewards[:, ::-1].cumsum(axis=1)[:, ::-1]


def random_mdp(
    rng: np.random.Generator,
    *,
    horizon: int,
    states: int,
    actions: int,
    max_reward: int,
    eps: float,
) -> LayeredMDP:
    """Tables drawn uniformly, behaviour from Dirichlet(1, ..., 1) in every state."""
    shape = (horizon, states, actions)
    return LayeredMDP(
        next_state=rng.integers(states, size=shape),
        reward=rng.integers(max_reward + 1, size=shape),
        behaviour=rng.dirichlet(np.ones(actions), size=shape[:2]),
        eps=eps,
        max_reward=max_reward,
    )


def step(mdp: LayeredMDP, t: int, states, actions, rng: np.random.Generator):
    """Play step t of N episodes: rewards (N,) and next states (N,) of states (N,) and actions (N,)."""
    by_chance = rng.random(len(states)) < mdp.eps
    rewards = rng.integers(mdp.max_reward + 1, size=len(states))
    following = rng.integers(mdp.num_states, size=len(states))
    return (
        np.where(by_chance, rewards, mdp.reward[t, states, actions]),
        np.where(by_chance, following, mdp.next_state[t, states, actions]),
    )


def choose(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One column (N,) per row of probabilities (N, A)."""
    below = rng.random(len(probabilities))[:, None] >= probabilities.cumsum(axis=1)
    return np.minimum(below.sum(axis=1), probabilities.shape[1] - 1)  # the sum may round to less than 1


def collect(mdp: LayeredMDP, episodes: int, rng: np.random.Generator) -> Steps:
    """Episodes of the behaviour policy."""
    states = np.zeros(episodes, int)
    columns = []
    for t in range(mdp.horizon):
        actions = choose(mdp.behaviour[t, states], rng)
        rewards, following = step(mdp, t, states, actions, rng)
        columns.append((states, actions, rewards))
        states = following
    return Steps(*(np.stack(parts, axis=1) for parts in zip(*columns, strict=True)))


def return_probabilities(mdp: LayeredMDP) -> tuple[np.ndarray, np.ndarray]:
    """P(g | t, s) and P(g | t, s, a) of the return-to-go g = 0 .. H M under the behaviour policy.

    Returns:
        (H + 1, S, G) and (H, S, A, G) with G = H M + 1; at t = H the return-to-go is 0.
    """
    outcomes, size = mdp.outcomes(), mdp.max_return + 1
    of_state = np.zeros((mdp.horizon + 1, mdp.num_states, size))
    of_action = np.zeros((*mdp.reward.shape, size))
    of_state[-1, :, 0] = 1
    for t in reversed(range(mdp.horizon)):
        for r in range(mdp.max_reward + 1):
            of_action[t, :, :, r:] += outcomes[t, :, :, r] @ of_state[t + 1, :, : size - r]
        of_state[t] = np.einsum("sa,sag->sg", mdp.behaviour[t], of_action[t])
    return of_state, of_action


def exact_policy(mdp: LayeredMDP) -> ConditionedPolicy:
    """pi(a | t, s, g) = beta(a | t, s) P(g | t, s, a) / P(g | t, s).

    What conditioning on the return gives with infinite data and no error of a network. Where the
    return-to-go has probability 0, beta stands.
    """
    of_state, of_action = return_probabilities(mdp)
    joint = mdp.behaviour[..., None] * of_action  # (H, S, A, G)
    return _conditioned(joint.swapaxes(2, 3), of_state[:-1], mdp.behaviour)


def counted_policy(mdp: LayeredMDP, data: Steps) -> ConditionedPolicy:
    """The same from the data's counts. Where a return-to-go was never seen in a state, the frequencies of the
    state's actions stand; where the state was never seen, the uniform policy."""
    counts = np.zeros((mdp.horizon, mdp.num_states, mdp.max_return + 1, mdp.num_actions))
    t = np.broadcast_to(np.arange(mdp.horizon), data.states.shape)
    np.add.at(counts, (t, data.states, data.returns_to_go, data.actions), 1)
    of_state = counts.sum(axis=2)  # (H, S, A)
    seen = of_state.sum(axis=-1, keepdims=True)
    frequencies = np.where(seen > 0, of_state / np.maximum(seen, 1), 1 / mdp.num_actions)
    return _conditioned(counts, counts.sum(axis=-1), frequencies)


def value_of(mdp: LayeredMDP, policy: ConditionedPolicy, target: int) -> float:
    """Exact expected return from state 0 when asked for `target`, which falls by each reward."""
    rewards, known = np.arange(mdp.max_reward + 1), policy.given.shape[2]
    left = np.arange(target - mdp.max_return, target + 1)  # (L,) what may be left to ask for
    # After reward r the place of g - r is r further down; what falls below 0 cannot come up.
    places = np.maximum(np.arange(len(left))[:, None] - rewards, 0)  # (L, M + 1)
    inside = ((left >= 0) & (left < known))[:, None]
    outcomes = mdp.outcomes()
    value = np.zeros((mdp.num_states, len(left)))  # of (s, g), one step later
    for t in reversed(range(mdp.horizon)):
        given = policy.given[t][:, np.clip(left, 0, known - 1)]  # (S, L, A)
        chosen = np.where(inside, given, policy.otherwise[t][:, None])
        of_action = np.einsum("sarz,zlr->sla", outcomes[t], rewards + value[:, places])
        value = (chosen * of_action).sum(axis=-1)
    return float(value[0, -1])


def best_value(mdp: LayeredMDP) -> float:
    """Expected return from the start of the best policy there is."""
    outcomes, rewards = mdp.outcomes(), np.arange(mdp.max_reward + 1)
    value = np.zeros(mdp.num_states)
    for t in reversed(range(mdp.horizon)):
        gained = rewards[:, None] + value  # (M + 1, S)
        value = np.einsum("sarz,rz->sa", outcomes[t], gained).max(axis=1)
    return float(value[0])


def behaviour_moments(mdp: LayeredMDP) -> tuple[float, float]:
    """Mean and standard deviation of the return under the data's policy."""
    of_start, returns = return_probabilities(mdp)[0][0, 0], np.arange(mdp.max_return + 1)
    mean = of_start @ returns
    return float(mean), float((of_start @ (returns - mean) ** 2) ** 0.5)


def _conditioned(joint: np.ndarray, total: np.ndarray, otherwise: np.ndarray) -> ConditionedPolicy:
    """joint (H, S, G, A) over its sums total (H, S, G), `otherwise` (H, S, A) where the sum is 0."""
    some = total[..., None] > 0
    given = np.where(some, joint / np.where(some, total[..., None], 1), otherwise[:, :, None])
    return ConditionedPolicy(given, otherwise)
