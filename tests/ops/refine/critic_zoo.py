"""Critics as people write them, each of which becomes a program: ZOO, name -> what makes one."""

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

S, A, H, E = 5, 3, 16, 4


def mlp(*widths, activation=nn.ReLU, norm=False):
    layers = []
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(n, m))
        if i < len(widths) - 2:
            layers += [nn.LayerNorm(m)] if norm else []
            layers.append(activation())
    return nn.Sequential(*layers)


class Twin(nn.Module):
    """q1/q2 attributes, a tuple out."""

    def __init__(self, **kwargs):
        super().__init__()
        self.q1, self.q2 = mlp(S + A, H, H, 1, **kwargs), mlp(S + A, H, H, 1, **kwargs)

    def forward(self, state, action):
        x = torch.cat([state, action], -1)
        return self.q1(x), self.q2(x)


class TwinMin(Twin):
    def forward(self, state, action):
        return torch.min(*super().forward(state, action))


class TwinMinimumSqueezed(Twin):
    def forward(self, state, action):
        q1, q2 = super().forward(state, action)
        return torch.minimum(q1, q2).squeeze(-1)


class TwinAverage(Twin):
    def forward(self, state, action):
        q1, q2 = super().forward(state, action)
        return (q1 + q2) / 2


class Fujimoto(nn.Module):
    """TD3 style: l1..l6 and functional ReLU, action before state."""

    def __init__(self):
        super().__init__()
        self.l1, self.l2, self.l3 = nn.Linear(S + A, H), nn.Linear(H, H), nn.Linear(H, 1)
        self.l4, self.l5, self.l6 = nn.Linear(S + A, H), nn.Linear(H, H), nn.Linear(H, 1)

    def forward(self, state, action):
        x = torch.cat([action, state], 1)
        q1 = self.l3(F.relu(self.l2(F.relu(self.l1(x)))))
        q2 = self.l6(F.relu(self.l5(F.relu(self.l4(x)))))
        return q1, q2


class CleanRL(nn.Module):
    """fc1..fc3, one Q of shape (B, 1)."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(S + A, H), nn.Linear(H, H), nn.Linear(H, 1)

    def forward(self, x, a):
        x = F.relu(self.fc1(torch.cat([x, a], 1)))
        return self.fc3(F.relu(self.fc2(x)))


class StableBaselines(nn.Module):
    """ContinuousCritic: an extractor that flattens and casts, a list of nets, a tuple out."""

    def __init__(self):
        super().__init__()
        self.flatten, self.nets = nn.Flatten(), [mlp(S + A, H, H, 1) for _ in range(2)]
        for i, net in enumerate(self.nets):
            self.add_module(f"qf{i}", net)

    def forward(self, obs, actions):
        x = torch.cat([self.flatten(obs.float()), actions], dim=1)
        return tuple(net(x) for net in self.nets)


class VectorisedLinear(nn.Module):
    def __init__(self, n, m):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(E, n, m) / n**0.5)
        self.bias = nn.Parameter(torch.randn(E, 1, m) / 4)

    def forward(self, x):
        return torch.baddbmm(self.bias, x, self.weight)


class VectorisedEnsemble(nn.Module):
    """CORL's SAC-N / EDAC: (E, B, in) through baddbmm, (E, B) out."""

    def __init__(self, linear=VectorisedLinear):
        super().__init__()
        self.net = nn.Sequential(linear(S + A, H), nn.ReLU(), linear(H, H), nn.ReLU(), linear(H, 1))

    def forward(self, state, action):
        x = torch.cat([state, action], -1).unsqueeze(0).repeat_interleave(E, dim=0)
        return self.net(x).squeeze(-1)


class MatmulLinear(VectorisedLinear):
    def forward(self, x):
        return x @ self.weight + self.bias


class EinsumEnsemble(nn.Module):
    """(E, in, out) weights by einsum, first layer broadcast over members, (B, E) out."""

    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(E, S + A, H) / 3)
        self.b1 = nn.Parameter(torch.randn(E, H))
        self.w2 = nn.Parameter(torch.randn(E, H) / 4)

    def forward(self, state, action):
        h = torch.einsum("bi,eio->beo", torch.cat([state, action], -1), self.w1) + self.b1
        return torch.einsum("beo,eo->be", F.silu(h), self.w2)


class FunctionalStack(nn.Module):
    """torch.func: one body, stacked parameters, vmap, (E, B, 1) out."""

    def __init__(self, **kwargs):
        super().__init__()
        members = [mlp(S + A, H, H, 1, **kwargs) for _ in range(E)]
        params, _ = stack_module_state(members)
        self.names = list(params)
        self.stacked = nn.ParameterList([nn.Parameter(p.detach().clone()) for p in params.values()])
        self.body = [copy.deepcopy(members[0]).to("meta")]  # kept from registration, as in the tutorial

    def forward(self, state, action):
        x = torch.cat([state, action], -1)
        params = dict(zip(self.names, self.stacked, strict=True))
        return vmap(lambda p: functional_call(self.body[0], p, (x,)))(params)


class Normalised(nn.Module):
    """(s - mean) / std inside, actions rescaled, Q scaled and shifted at the end."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.randn(S))
        self.register_buffer("std", torch.rand(S) + 0.5)
        self.low, self.high = torch.tensor([-2.0] * A), torch.tensor([3.0] * A)  # plain attributes
        self.net = mlp(S + A, H, H, 1, activation=nn.Tanh)

    def forward(self, state, action):
        state = (state - self.mean) / (self.std + 1e-6)
        action = 2 * (action - self.low) / (self.high - self.low) - 1
        return self.net(torch.cat((state, action), -1)) * 10.0 - 3.0


class BranchesJoinedByReLU(nn.Module):
    """One linear encoder for the state, one for the action, then a joint activation."""

    def __init__(self):
        super().__init__()
        self.s, self.a, self.out = nn.Linear(S, H), nn.Linear(A, 4), mlp(H + 4, H, 1)

    def forward(self, state, action):
        return self.out(F.elu(torch.cat([self.s(state), self.a(action)], -1)))


class AffineEncoder(nn.Module):
    """A state encoder without activation beside the raw action."""

    def __init__(self):
        super().__init__()
        self.s, self.out = nn.Linear(S, 4), mlp(4 + A, H, 1)

    def forward(self, state, action):
        return self.out(torch.cat([self.s(state), action], -1))


class SharedTrunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.heads = mlp(S + A, H, H), nn.ModuleList([mlp(H, H, 1) for _ in range(3)])

    def forward(self, state, action):
        h = F.mish(self.trunk(torch.cat([state, action], -1)))
        return torch.stack([head(h) for head in self.heads])


class Quantiles(nn.Module):
    """Q is the mean of quantiles, min over two critics."""

    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList([mlp(S + A, H, 8) for _ in range(2)])

    def forward(self, state, action):
        x = torch.cat([state, action], -1)
        return torch.stack([net(x).mean(-1, keepdim=True) for net in self.nets]).amin(0)


class MeanOverEverything(Quantiles):
    def forward(self, state, action):
        x = torch.cat([state, action], -1)
        return torch.stack([net(x) for net in self.nets], dim=1).mean((1, 2))


class WeightNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(S + A, H)),
            nn.GELU(),
            nn.utils.weight_norm(nn.Linear(H, H)),
            nn.GELU(approximate="tanh"),
            nn.utils.parametrizations.spectral_norm(nn.Linear(H, 1)),
        )

    def forward(self, state, action):
        return self.net(torch.cat([state, action], -1))


class NegatedMax(Twin):
    """-max(-q1, -q2) is a min."""

    def forward(self, state, action):
        q1, q2 = super().forward(state, action)
        return -torch.max(-q1, -q2)


class BoundedQ(nn.Module):
    """An activation after the last layer."""

    def __init__(self):
        super().__init__()
        self.net = mlp(S + A, H, 1)

    def forward(self, state, action):
        return 5 * torch.tanh(self.net(torch.cat([state, action], -1)))


class HandMade(nn.Module):
    """No nn.Linear at all: parameters, in-place operators, slices, a product and a sum at the end."""

    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(H, S + A)), nn.Parameter(torch.randn(H))
        self.v = nn.Parameter(torch.randn(H))

    def forward(self, state, action):
        x = torch.cat([state[:, :2], action, state[:, 2:]], 1)
        h = (x @ self.w1.t()).add_(self.b1).clamp_(min=0)
        return (h * self.v).sum(-1)


def stacked(*layers):
    return nn.Sequential(*layers)


ZOO = {
    "two sequentials": lambda: [mlp(S + A, H, H, 1), mlp(S + A, H, H, 1)],
    "one sequential": lambda: mlp(S + A, H, H, 1),
    "linear critic": lambda: nn.Linear(S + A, 1),
    "q1 and q2": Twin,
    "min inside": TwinMin,
    "minimum, squeezed": TwinMinimumSqueezed,
    "average inside": TwinAverage,
    "TD3": Fujimoto,
    "CleanRL": CleanRL,
    "Stable-Baselines3": StableBaselines,
    "CORL ensemble": VectorisedEnsemble,
    "matmul ensemble": lambda: VectorisedEnsemble(MatmulLinear),
    "einsum ensemble": EinsumEnsemble,
    "torch.func stack": FunctionalStack,
    "torch.func stack, LayerNorm": lambda: FunctionalStack(norm=True),
    "normalised inputs": Normalised,
    "LayerNorm": lambda: Twin(norm=True),
    "LayerNorm without weights": lambda: stacked(
        nn.Linear(S + A, H), nn.LayerNorm(H, elementwise_affine=False), nn.Mish(), nn.Linear(H, 1)
    ),
    "LayerNorm on the inputs": lambda: stacked(nn.LayerNorm(S + A), mlp(S + A, H, 1)),
    "tanh on the inputs": lambda: stacked(nn.Tanh(), mlp(S + A, H, 1)),
    "dropout in eval": lambda: stacked(
        nn.Linear(S + A, H), nn.Dropout(0.1), nn.LayerNorm(H), nn.ReLU(), nn.Linear(H, 1)
    ).eval(),
    "BatchNorm in eval": lambda: stacked(
        nn.BatchNorm1d(S + A), nn.Linear(S + A, H), nn.BatchNorm1d(H), nn.ReLU(inplace=True), nn.Linear(H, 1)
    ).eval(),
    "joined branches": BranchesJoinedByReLU,
    "affine encoder": AffineEncoder,
    "shared trunk": SharedTrunk,
    "quantiles": Quantiles,
    "mean over everything": MeanOverEverything,
    "weight norms": lambda: WeightNorms().eval(),
    "negated max": NegatedMax,
    "bounded Q": BoundedQ,
    "hand made": HandMade,
    "linear on linear": lambda: stacked(nn.Linear(S + A, 4), nn.Linear(4, H), nn.ReLU(), nn.Linear(H, 1)),
    "eight layers": lambda: mlp(S + A, *[H] * 7, 1),
    "float64": lambda: Twin().double(),
    "bfloat16": lambda: Twin().bfloat16(),
} | {
    f"activation {kind}": lambda layer=layer: mlp(S + A, H, H, 1, activation=layer)
    for kind, layer in {
        "relu": nn.ReLU,
        "leaky relu": lambda: nn.LeakyReLU(0.2),
        "elu": lambda: nn.ELU(0.7),
        "selu": nn.SELU,
        "celu": lambda: nn.CELU(1.5),
        "gelu": nn.GELU,
        "gelu tanh": lambda: nn.GELU("tanh"),
        "silu": nn.SiLU,
        "mish": nn.Mish,
        "tanh": nn.Tanh,
        "softplus": lambda: nn.Softplus(2.0, 5.0),
        "identity": nn.Identity,
    }.items()
}
