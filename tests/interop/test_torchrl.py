"""TorchRL's value operators and losses: against TorchRL where it is, else modules of the same layout."""

import pytest
import torch
from foreign_q import assert_climbs, assert_q, climbed, random_pairs
from torch import nn
from torch.func import stack_module_state

import dtag_fast
from dtag_fast.interop import load_critic

S, A, H = 5, 3, 16


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Joint(nn.Module):
    """Q of (observation, action) or of (action, observation), joined in that order."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(S + A, H), nn.Tanh(), nn.Linear(H, 1))

    def forward(self, *inputs):
        return self.net(torch.cat(inputs, -1))


class Operator(nn.Module):
    """A TensorDictModule as far as it is looked at: keys, a module, called by position."""

    def __init__(self, module, in_keys):
        super().__init__()
        self.module, self.in_keys = module, in_keys

    def forward(self, *inputs):
        return self.module(*inputs)


Operator.__module__, Operator.__qualname__ = "tensordict.nn.common", "TensorDictModule"


def test_without_torchrl_an_operator_of_observation_and_action():
    operator = Operator(Joint(), ["observation", "action"])
    q = lambda s, a: operator(s, a).T  # noqa: E731
    critic = load_critic(operator, action_dim=A)
    assert critic.source == "TorchRL Operator"
    assert_q(critic, q)
    assert_climbs(critic, q)


def test_without_torchrl_the_other_order_of_keys():
    operator = Operator(Joint(), [("agents", "action"), "observation"])
    q = lambda s, a: operator(a, s).T  # noqa: E731
    critic = load_critic(operator, action_dim=A)
    assert_q(critic, q)
    assert_climbs(critic, q)


def test_refine_does_not_exchange_states_and_actions_in_silence():
    states, actions = random_pairs(S, A)
    with pytest.raises(ValueError, match="load_critic takes two keys in any order"):
        dtag_fast.refine(Operator(Joint(), ["action", "observation"]), states, actions)


def test_without_torchrl_stacked_parameters_beside_an_operator():
    operators = [Operator(Joint(), ["observation", "action"]) for _ in range(3)]
    parameters, _ = stack_module_state(operators)
    nested = {"module": {"net": {"0": {}, "2": {}}}}
    for name, tensor in parameters.items():
        *_, layer, kind = name.split(".")
        nested["module"]["net"][layer][kind] = tensor
    q = lambda s, a: torch.cat([operator(s, a) for operator in operators], -1).T  # noqa: E731
    critic = load_critic((nested, operators[0]), action_dim=A)
    assert len(critic.members) == 3
    assert_q(critic, q)
    assert_climbs(critic, q)


@pytest.mark.parametrize(
    "keys", [["observation"], ["pixels", "vector", "action"], ["observation", "goal"], ["action", "action"]]
)
def test_other_keys_are_refused(keys):
    with pytest.raises(ValueError, match="expected two in_keys"):
        load_critic(Operator(Joint(), keys), action_dim=A)


def test_a_file_is_for_the_operator_to_load(tmp_path):
    torch.save(Joint().state_dict(), tmp_path / "q.pt")
    with pytest.raises(ValueError, match="torchrl: a ValueOperator"):
        load_critic(tmp_path / "q.pt", format="torchrl")


class TestAgainstTorchRL:
    """With the library itself."""

    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("torchrl")

    def operator(self, module=None, in_keys=("observation", "action")):
        from torchrl.modules import MLP, ValueOperator

        module = module or MLP(in_features=S + A, out_features=1, num_cells=[H, H], activation_class=nn.ReLU)
        return ValueOperator(module, in_keys=list(in_keys))

    def q(self, operator):
        """As TorchRL computes it, by the names of the keys."""
        from tensordict import TensorDict

        def values(states, actions):
            held = TensorDict({"observation": states, "action": actions}, batch_size=[len(states)])
            return operator(held)["state_action_value"].T

        return values

    def loss(self, name, operator):
        from tensordict.nn import TensorDictModule
        from torchrl import objectives
        from torchrl.data import Bounded
        from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator

        spec = Bounded(-torch.ones(A), torch.ones(A), (A,))
        if name in ("SACLoss", "IQLLoss", "REDQLoss", "CQLLoss"):
            net = nn.Sequential(nn.Linear(S, 2 * A), NormalParamExtractor())
            actor = ProbabilisticActor(
                TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"]),
                in_keys=["loc", "scale"],
                distribution_class=TanhNormal,
                return_log_prob=True,
                spec=spec,
            )
        else:
            actor = TensorDictModule(nn.Linear(S, A), in_keys=["observation"], out_keys=["action"])
        more = {}
        if name == "IQLLoss":
            more["value_network"] = ValueOperator(nn.Linear(S, 1), in_keys=["observation"])
        if name in ("TD3Loss", "CQLLoss", "TD3BCLoss"):
            more["action_spec"] = spec
        return getattr(objectives, name)(actor, operator, **more)

    def test_refine_takes_an_operator_as_it_is(self):
        operator = self.operator()
        states, actions = random_pairs(S, A)
        explained = dtag_fast.explain(operator, states, actions)
        assert explained.lowered and explained.backend == "cpu", str(explained)
        ours = dtag_fast.refine(operator, states, actions, steps=4)
        torch.testing.assert_close(
            ours, climbed(self.q(operator), states, actions, 4, 0.03), rtol=1e-4, atol=1e-5
        )

    @pytest.mark.parametrize("in_keys", [("observation", "action"), ("action", "observation")])
    def test_load_critic_takes_its_keys_by_name(self, in_keys):
        operator = self.operator(Joint(), in_keys)
        critic = load_critic(operator, action_dim=A)
        assert critic.source == "TorchRL ValueOperator"
        assert_q(critic, self.q(operator))
        assert_climbs(critic, self.q(operator))

    def test_refine_refuses_the_other_order(self):
        states, actions = random_pairs(S, A)
        with pytest.raises(ValueError, match="load_critic takes two keys in any order"):
            dtag_fast.refine(self.operator(Joint(), ("action", "observation")), states, actions)

    def test_standardised_states_are_folded_in(self):
        operator, mean, std = self.operator(), torch.linspace(-1, 2, S), torch.linspace(0.5, 3, S)
        critic = load_critic(operator, action_dim=A, state_mean=mean, state_std=std)
        q = lambda s, a: self.q(operator)((s - mean) / std, a)  # noqa: E731
        assert_q(critic, q)
        assert_climbs(critic, q)

    @pytest.mark.parametrize(
        "name", ["SACLoss", "TD3Loss", "IQLLoss", "CQLLoss", "REDQLoss", "TD3BCLoss", "DDPGLoss"]
    )
    @pytest.mark.parametrize("target", [False, True])
    def test_a_loss_gives_the_members_it_holds(self, name, target):
        loss = self.loss(name, self.operator())
        key = "value_network" if name == "DDPGLoss" else "qvalue_network"
        parameters = getattr(loss, f"target_{key}_params" if target else f"{key}_params")
        flat = dict(parameters.flatten_keys(".").items())
        generator = torch.Generator().manual_seed(1)
        for tensor in flat.values():  # a target apart from what is trained
            tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)

        def q(states, actions):
            network, x = getattr(loss, key), torch.cat([states, actions], -1)
            one = lambda p: torch.func.functional_call(network.module, p, (x,))  # noqa: E731
            inner = {name.removeprefix("module."): x.data for name, x in flat.items()}
            if parameters.batch_size:
                return torch.func.vmap(one)(inner).squeeze(-1)
            return one(inner).T

        critic = load_critic(loss, action_dim=A, target=target)
        assert len(critic.members) == (parameters.batch_size[0] if parameters.batch_size else 1)
        assert_q(critic, q)
        assert_climbs(critic, q)
        assert_q(load_critic((parameters, getattr(loss, key)), action_dim=A), q)

    def test_parameters_alone_are_refused(self):
        loss = self.loss("TD3Loss", self.operator())
        with pytest.raises(ValueError, match="or the loss"):
            load_critic(loss.qvalue_network_params, action_dim=A)

    def test_refine_says_what_to_do_with_a_loss(self):
        states, actions = random_pairs(S, A)
        with pytest.raises(ValueError, match="and losses"):
            dtag_fast.refine(self.loss("TD3Loss", self.operator()), states, actions)

    def test_a_loss_without_a_q_of_actions_is_refused(self):
        from tensordict.nn import TensorDictModule
        from torchrl.objectives import BCLoss

        actor = TensorDictModule(nn.Linear(S, A), in_keys=["observation"], out_keys=["action"])
        with pytest.raises(ValueError, match="holds no Q of observation and action"):
            load_critic(BCLoss(actor), action_dim=A)
