"""jax.jit of the whole refinement on arrays that are JAX's already, the steps unrolled or in a fori_loop."""

import os
from collections.abc import Callable

# Torch is in the same process: JAX must not take most of the GPU's memory for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from torch import Tensor

from .problem import Problem


def why_not(problem: Problem) -> str | None:
    """None when this JAX has the problem's device."""
    if problem.states.device.type == "cuda":
        try:
            jax.devices("gpu")
        except RuntimeError as error:
            return f"jax has no GPU: {str(error).splitlines()[0]}"
    return None


def prepare(problem: Problem, *, rolled: bool = False) -> Callable[[], jax.Array]:
    device = jax.devices("gpu" if problem.states.device.type == "cuda" else "cpu")[0]

    def array(tensor: Tensor) -> jax.Array:
        return jax.device_put(tensor.detach().cpu().numpy(), device)

    def matmul(a, b):  # fp32 on a GPU too, where the default is tf32
        return jnp.matmul(a, b, precision="highest")

    members = [
        [(array(member[i].weight.T.contiguous()), array(member[i].bias)) for i in (0, 2, 4)]
        for member in (problem.critic.q1, problem.critic.q2)
    ]
    states, actions = array(problem.states), array(problem.actions)

    def total_q(members, states, actions):
        inputs = jnp.concatenate([states, actions], axis=-1)
        qs = []
        for (w1, b1), (w2, b2), (w3, b3) in members:
            hidden = jax.nn.relu(matmul(jax.nn.relu(matmul(inputs, w1) + b1), w2) + b2)
            qs.append((matmul(hidden, w3) + b3)[:, 0])
        q = jnp.minimum(*qs)
        return q.sum(), q

    value_and_gradient = jax.value_and_grad(total_q, argnums=2, has_aux=True)

    def better_of(action, q, best, best_q):
        better = q > best_q
        return jnp.where(better[:, None], action, best), jnp.where(better, q, best_q)

    @jax.jit
    def refine(members, states, actions):
        def step(_, carry):
            action, best, best_q = carry
            (_, q), gradient = value_and_gradient(members, states, action)
            best, best_q = better_of(action, q, best, best_q)
            return jnp.clip(action + problem.lr * gradient, -1, 1), best, best_q

        action = jnp.clip(actions, -1, 1)
        carry = action, action, jnp.full(action.shape[0], -np.inf, action.dtype)
        if rolled:
            carry = jax.lax.fori_loop(0, problem.steps, step, carry)
        else:
            for i in range(problem.steps):
                carry = step(i, carry)
        action, best, best_q = carry
        _, q = total_q(members, states, action)
        return better_of(action, q, best, best_q)[0]

    def call() -> jax.Array:
        return refine(members, states, actions).block_until_ready()

    return call
