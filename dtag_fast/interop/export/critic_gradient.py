"""Q of a CriticProgram and its gradient with respect to the action, by the chain rule written out.

z_1 = W_s s + b + W_a a,   x_l = f(z_l),   z_{l+1} = W_{l+1} x_l + b;     Q = z_L
dQ/dz_l = f'(z_l) * W_{l+1}^T dQ/dz_{l+1},   dQ/da = W_a^T dQ/dz_1
"""

from __future__ import annotations

from collections.abc import Callable

from dtag_fast.interop.export import activations
from dtag_fast.interop.export.operators import Value
from dtag_fast.ops.refine.program import Activation, CriticProgram, Layer, LayerNorm, Linear

Backward = Callable[[Value | None], Value]  # None: dQ/dQ = 1


class WrittenCritic:
    """A program at fixed states.

    Args:
        ops: the operators. program: the critic. states: (B, S) raw; their part of every first layer is
            computed once.
        reduce: "min", "mean", "max" or the number of a member; the program's own reduction goes before it.
    """

    def __init__(self, ops, program: CriticProgram, states: Value, reduce: str | int = "min"):
        self.ops, self.program = ops, program
        self.reduce = program.reduction or reduce
        members = program.members
        self._members = [members[self.reduce]] if isinstance(self.reduce, int) else list(members)
        size = program.state_dim
        self._from_states = [
            ops.linear(states, layers[0].weight[:, :size], layers[0].bias) for layers in self._members
        ]

    def value(self, actions: Value) -> Value:
        """Reduced Q (B, 1)."""
        return self._reduce([(q, None) for q, _ in self._forward(actions)])[0]

    def value_and_gradient(self, actions: Value) -> tuple[Value, Value]:
        """Reduced Q (B, 1) and dQ/da, (B, A) or (1, A) where it is the same for all rows.

        Of "min" and "max" it is that of the chosen member, the first on ties.
        """
        return self._reduce([(q, self._backward(steps)) for q, steps in self._forward(actions)])

    def _forward(self, actions: Value) -> list[tuple[Value, list[Backward]]]:
        found = []
        for (first, *layers), from_states in zip(self._members, self._from_states, strict=True):
            weight = first.weight[:, self.program.state_dim :]
            x = from_states + self.ops.linear(actions, weight, None)
            steps: list[Backward] = [lambda g, weight=weight: self._through(g, weight)]
            for layer in layers:
                x, step = self._layer(layer, x)
                steps.append(step)
            found.append((x, steps))
        return found

    def _layer(self, layer: Layer, x: Value) -> tuple[Value, Backward]:
        """The layer's output, and what makes of the gradient there the one at its input x."""
        ops = self.ops
        if isinstance(layer, Linear):
            return ops.linear(x, layer.weight, layer.bias), lambda g: self._through(g, layer.weight)
        if isinstance(layer, LayerNorm):
            return self._layer_norm(layer, x)
        assert isinstance(layer, Activation)

        def backward(g: Value) -> Value:
            slope = activations.derivative(ops, layer, x)
            return g if slope is None else g * slope

        return activations.apply(ops, layer, x), backward

    def _through(self, gradient: Value | None, weight) -> Value:
        """Back through a Linear; (1, in), the same for all rows, where it gives Q itself."""
        if gradient is None:
            return self.ops.constant(weight)
        return self.ops.linear_backward(gradient, weight)

    def _layer_norm(self, layer: LayerNorm, x: Value) -> tuple[Value, Backward]:
        """y = n * weight + bias, n = (x - mean) / deviation;
        dx = (dn - mean(dn) - n * mean(dn * n)) / deviation."""
        ops = self.ops
        centred = x - ops.mean(x)
        deviation = ops.sqrt(ops.mean(centred * centred) + layer.eps)
        n = centred / deviation
        weight = None if layer.weight is None else ops.constant(layer.weight)
        y = n if weight is None else n * weight
        y = y if layer.bias is None else y + ops.constant(layer.bias)

        def backward(g: Value) -> Value:
            g = g if weight is None else g * weight
            return (g - ops.mean(g) - n * ops.mean(g * n)) / deviation

        return y, backward

    @staticmethod
    def _backward(steps: list[Backward]) -> Value:
        g = None
        for step in reversed(steps):
            g = step(g)
        return g

    def _reduce(self, members: list[tuple[Value, Value | None]]) -> tuple[Value, Value | None]:
        ops, (q, g) = self.ops, members[0]
        for other_q, other_g in members[1:]:
            if self.reduce == "mean":
                q, g = q + other_q, None if g is None else g + other_g
                continue
            wins = other_q < q if self.reduce == "min" else other_q > q
            wins = wins | ops.is_nan(other_q)  # NaN goes before all numbers, as in PyTorch
            q, g = ops.where(wins, other_q, q), None if g is None else ops.where(wins, other_g, g)
        if self.reduce == "mean" and len(members) > 1:
            q, g = q / float(len(members)), None if g is None else g / float(len(members))
        return q, g
