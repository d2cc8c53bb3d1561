"""jax.jit of the whole refinement, all steps unrolled, on arrays that are JAX's already."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from torch import Tensor

from .problem import Problem


def prepare(problem: Problem) -> Callable[[], jax.Array]:
    def array(tensor: Tensor) -> jax.Array:
        return jnp.asarray(tensor.detach().cpu().numpy())

    members = [
        [(array(member[i].weight).T, array(member[i].bias)) for i in (0, 2, 4)]
        for member in (problem.critic.q1, problem.critic.q2)
    ]
    states, actions = array(problem.states), array(problem.actions)

    def total_q(members, states, actions):
        inputs = jnp.concatenate([states, actions], axis=-1)
        qs = []
        for (w1, b1), (w2, b2), (w3, b3) in members:
            hidden = jax.nn.relu(jax.nn.relu(inputs @ w1 + b1) @ w2 + b2)
            qs.append((hidden @ w3 + b3)[:, 0])
        q = jnp.minimum(*qs)
        return q.sum(), q

    value_and_gradient = jax.value_and_grad(total_q, argnums=2, has_aux=True)

    @jax.jit
    def refine(members, states, actions):
        action = jnp.clip(actions, -1, 1)
        best, best_q = action, jnp.full(action.shape[0], -np.inf)
        for i in range(problem.steps + 1):
            if i < problem.steps:
                (_, q), gradient = value_and_gradient(members, states, action)
            else:
                _, q = total_q(members, states, action)
            better = q > best_q
            best = jnp.where(better[:, None], action, best)
            best_q = jnp.where(better, q, best_q)
            if i < problem.steps:
                action = jnp.clip(action + problem.lr * gradient, -1, 1)
        return best

    def call() -> jax.Array:
        return refine(members, states, actions).block_until_ready()

    return call
