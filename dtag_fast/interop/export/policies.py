"""What the policies of dtag_fast.models do with a window of K steps, in plain operators.

A window has its padding on either side: tokens know their timestep and not their place, and masked ones are
seen by nobody.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dtag_fast.interop.export import activations
from dtag_fast.interop.export.operators import Value
from dtag_fast.interop.export.transformer import WrittenTransformer, layer_norm
from dtag_fast.models.autotuned_decision_transformer import AutotunedDecisionTransformer
from dtag_fast.models.normalizer import ActionBounds, InputNormalizer
from dtag_fast.models.policies import DeterministicPolicy, GaussianPolicy, StatePolicy, TanhGaussianPolicy
from dtag_fast.models.sequence import SequenceModel


class Acted(NamedTuple):
    """actions (B, A); state (B, S) raw, that they are for; returns (B, 1) raw, predicted, or None."""

    actions: Value
    state: Value
    returns: Value | None


def act_on_state(ops, policy: StatePolicy, states: Value) -> Acted:
    """The action that `policy.act` takes at raw states (B, S)."""
    if not isinstance(policy, DeterministicPolicy | GaussianPolicy | TanhGaussianPolicy):
        raise ValueError(f"policy: {type(policy).__name__} has no written-out form")
    x = normalized(ops, policy.normalizer, states)
    activation = activations.NAMED[policy.config["activation"]]
    for layer in policy.layers:
        x = activations.apply(ops, activation, ops.linear(x, layer.weight, layer.bias))
    if isinstance(policy, DeterministicPolicy):
        x = linear(ops, policy.action_head, x)
    elif isinstance(policy, TanhGaussianPolicy):
        head, size = policy.head, policy.head.out_features // 2
        x = ops.linear(x, head.weight[:size], head.bias[:size])
    else:
        x = linear(ops, policy.mean_head, x)
    squashed = not isinstance(policy, GaussianPolicy) or policy.squash_mean
    actions = bounded(ops, policy.action_bounds, ops.tanh(x) if squashed else x)
    if isinstance(policy, GaussianPolicy):
        actions = clipped(ops, policy.action_bounds, actions)
    return Acted(actions, states, None)


class WrittenSequencePolicy:
    """A SequenceModel's `act` on raw windows of exactly K steps.

    Args:
        ops: the operators. model: in eval mode.
    """

    def __init__(self, ops, model: SequenceModel):
        self.ops, self.model, config = ops, model, model.config
        self.k, self.d = config.context_len, config.d_model
        self.tokens = 3 * self.k - 1  # the last action is seen by no output
        self.transformer = WrittenTransformer(ops, model.transformer, self.tokens)
        self.steps = torch.arange(self.k)[None]

    def act(
        self, states: Value, actions: Value, returns: Value | None, timesteps: Value, mask: Value
    ) -> Acted:
        """The action of the last real step of each window.

        Args:
            states (B, K, S) raw; actions (B, K, A); returns (B, K, 1) raw, or None where the model makes them
            of states; timesteps (B, K) int64; mask (B, K) bool, True at real steps, of which each row has
            some. What padding holds does not matter, nor does the last real step's action, nor its return
            where the model predicts it.
        """
        ops, model, k = self.ops, self.model, self.k
        real = ops.reshape(mask, -1, k, 1)
        states, actions = ops.where(real, states, 0.0), ops.where(real, actions, 0.0)
        timesteps = ops.where(mask, timesteps, ops.constant(torch.zeros(1, dtype=torch.int64)))
        last = ops.largest(
            ops.where(mask, ops.constant(self.steps), ops.constant(torch.zeros_like(self.steps)))
        )
        if isinstance(model, AutotunedDecisionTransformer):
            scaled = self._values(states) / float(model.config.return_scale)
        else:
            scaled = ops.where(real, returns, 0.0) / float(model.config.return_scale)
        tokens = self._tokens(states, actions, scaled, timesteps)
        real_tokens = ops.slice(ops.reshape(ops.concat([real] * 3, 2), -1, 3 * k), 1, 0, self.tokens)
        at = last * self._number(3) + self._number(model.ORDER.index("state"))
        hidden, kept = self.transformer(tokens, real_tokens, at)
        predicted = None
        if model.predicts_returns:
            predicted = linear(ops, model.return_head, hidden)  # (B, 1, 1)
            now = ops.pick(ops.reshape(timesteps, -1, k, 1), last)  # (B, 1)
            token = self._token(model.embed_return, predicted, now)
            hidden = self.transformer.extend(token, kept, self.transformer.row_bias(real_tokens, at))
            predicted = ops.reshape(predicted, -1, 1) * float(model.config.return_scale)
        head = ops.reshape(linear(ops, model.action_head, hidden), -1, model.config.action_dim)
        return Acted(self._action_of(head), ops.pick(states, last), predicted)

    def _tokens(self, states: Value, actions: Value, returns: Value, timesteps: Value) -> Value:
        """(B, 3K - 1, D), in the model's order."""
        ops, model, k = self.ops, self.model, self.k
        states = normalized(ops, model.normalizer, states)
        inputs = {"state": states, "action": actions, "return": returns}
        layers = {"state": model.embed_state, "action": model.embed_action, "return": model.embed_return}
        parts = [self._token(layers[kind], inputs[kind], timesteps) for kind in model.ORDER]
        stacked = ops.concat([ops.reshape(part, -1, k, 1, self.d) for part in parts], 2)
        return ops.slice(ops.reshape(stacked, -1, 3 * k, self.d), 1, 0, self.tokens)

    def _token(self, layer: nn.Linear, x: Value, timesteps: Value) -> Value:
        """LayerNorm(W x + b + time), x (B, n, width) at timesteps (B, n)."""
        ops, model = self.ops, self.model
        token = linear(ops, layer, x)
        if model.config.timestep_embedding:
            token = token + ops.rows_of(model.embed_timestep.weight, timesteps)
        return layer_norm(ops, model.embed_norm, token)

    def _values(self, states: Value) -> Value:
        """V of raw states (B, K, S): (B, K, 1)."""
        ops, value = self.ops, self.model.value
        x = normalized(ops, value.normalizer, states)
        activation = activations.NAMED[value.config["activation"]]
        for layer in value.net:
            if isinstance(layer, nn.Linear):
                x = linear(ops, layer, x)
            elif isinstance(layer, nn.LayerNorm):
                x = layer_norm(ops, layer, x)
            else:
                x = activations.apply(ops, activation, x)
        return x

    def _action_of(self, head: Value) -> Value:
        """As `SequenceModel.action_of`."""
        ops, config = self.ops, self.model.config
        if not config.discrete:
            return bounded(ops, self.model.action_bounds, ops.tanh(head))
        every = ops.constant(torch.arange(config.action_dim)[None])
        return ops.where(ops.equal(every, ops.where_largest(head)), 1.0, 0.0)

    def _number(self, value: int) -> Value:
        return self.ops.constant(torch.full((1, 1), value))


def linear(ops, layer: nn.Linear, x: Value) -> Value:
    return ops.linear(x, layer.weight, layer.bias)


def normalized(ops, normalizer: InputNormalizer, states: Value) -> Value:
    return (states - ops.constant(normalizer.mean)) / ops.constant(normalizer.std)


def bounded(ops, bounds: ActionBounds, unit: Value) -> Value:
    return unit * ops.constant(bounds.half_range) + ops.constant(bounds.centre)


def clipped(ops, bounds: ActionBounds, actions: Value) -> Value:
    low, high = limits(bounds)
    return ops.minimum(ops.maximum(actions, ops.constant(low)), ops.constant(high))


def limits(bounds: ActionBounds) -> tuple[Tensor, Tensor]:
    """(low, high), (A,) each."""
    return bounds.centre - bounds.half_range, bounds.centre + bounds.half_range
