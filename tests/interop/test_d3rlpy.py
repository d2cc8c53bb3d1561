"""Critics of d3rlpy: Q as the library's own `predict_value`, from memory and from files."""

from __future__ import annotations

import importlib.util
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from d3rlpy_files import HIDDEN, A, S, config, part, q_by_hand, saved, states, write_d3

import dtag_fast
from dtag_fast.interop import RefinedPredictor, load_critic

STANDARD = part("standard", mean=[0.5, -1.0, 2.0, 0.0], std=[1.0, 0.1, 3.0, 0.0], eps=1e-3)
MIN_MAX_STATES = part("min_max", minimum=[-1.0, 0.0, 2.0, -5.0], maximum=[1.0, 4.0, 2.5, 5.0])
MIN_MAX_ACTIONS = part("min_max", minimum=[-2.0, 0.0], maximum=[2.0, 0.5])
REWARDS = part("multiply", multiplier=10.0)

library = pytest.mark.skipif(importlib.util.find_spec("d3rlpy") is None, reason="needs d3rlpy")


def inputs(rows: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, S, generator=generator), torch.rand(rows, A, generator=generator) * 2 - 1


def scaled(kind: dict, x: torch.Tensor) -> torch.Tensor:
    """What d3rlpy's scalers make of it, by their formulas."""
    params = {name: torch.tensor(value) for name, value in kind["params"].items()}
    if kind["type"] == "standard":
        return (x - params["mean"]) / (params["std"] + params["eps"])
    return (x - params["minimum"]) / (params["maximum"] - params["minimum"]) * 2 - 1


@pytest.mark.parametrize("target", [False, True])
@pytest.mark.parametrize("scaler", [STANDARD, MIN_MAX_STATES], ids=["standard", "min_max"])
def test_d3_file_gives_q_computed_by_hand_with_scalers(tmp_path, scaler, target):
    held = states()
    described = config("iql", observation_scaler=scaler, action_scaler=MIN_MAX_ACTIONS, reward_scaler=REWARDS)
    critic = load_critic(write_d3(tmp_path / "model.d3", held, described), target=target)
    s, a = inputs()
    x = torch.cat([scaled(scaler, s), scaled(MIN_MAX_ACTIONS, a)], dim=1)
    q_funcs = held["targ_q_funcs" if target else "q_funcs"]
    for member, q in enumerate(critic(s, a)):
        torch.testing.assert_close(q, q_by_hand(q_funcs, member, x), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(critic.bounds[0], np.float32([-2.0, 0.0]))
    np.testing.assert_array_equal(critic.bounds[1], np.float32([2.0, 0.5]))
    assert (critic.state_dim, critic.action_dim, critic.source) == (S, A, "d3rlpy iql")


REWARD_SCALERS = {
    "none": (part("none"), 1.0),
    "multiply": (REWARDS, 10.0),
    "shift": (part("shift", shift=-1.0, multiplier=4.0, multiply_first=False), 4.0),
    "clip": (part("clip", low=-1.0, high=1.0, multiplier=3.0), 3.0),
    "min_max": (part("min_max", minimum=-2.0, maximum=6.0, multiplier=2.0), 0.25),
    "standard": (part("standard", mean=1.0, std=0.499, eps=0.001, multiplier=1.0), 2.0),
    "return": (part("return", return_max=900.0, return_min=-100.0, multiplier=1000.0), 1.0),
}


@pytest.mark.parametrize(
    ("name", "value"), [("activation", "tanh"), ("norm", "after"), ("quantiles", "truncated")]
)
def test_what_the_file_says_itself_is_not_to_be_told(name, value, tmp_path):
    path = write_d3(tmp_path / "model.d3")
    with pytest.raises(ValueError, match=f"^{name}: .* leave {name} out"):
        load_critic(path, **{name: value})


@pytest.mark.parametrize("kind", REWARD_SCALERS)
def test_q_in_units_of_raw_rewards_is_divided_by_the_scalers_factor(kind, tmp_path):
    scaler, factor = REWARD_SCALERS[kind]
    path = write_d3(tmp_path / "model.d3", states(), config(reward_scaler=scaler))
    s, a = inputs()
    for trained, raw in zip(
        load_critic(path)(s, a), load_critic(path, reward_units="raw")(s, a), strict=True
    ):
        torch.testing.assert_close(raw * factor, trained)


@pytest.mark.parametrize(
    ("scaler", "sentence"),
    [
        (part("log"), "reward_scaler 'log': its factor is not known"),
        (part("standard", mean=None, std=None), "reward_scaler std: expected a number, it is not fitted"),
        (part("min_max", minimum=1.0, maximum=1.0), "reward_scaler: expected a positive factor"),
        (part("multiply", multiplier=-1.0), "reward_scaler: expected a positive factor"),
        (part("multiply", multiplier="x"), "reward_scaler multiplier: expected finite numbers"),
    ],
)
def test_reward_scalers_that_cannot_be_undone_are_refused_when_asked_for(scaler, sentence, tmp_path):
    path = write_d3(tmp_path / "model.d3", states(), config(reward_scaler=scaler))
    load_critic(path)  # in units of the trained rewards nothing is undone
    with pytest.raises(ValueError, match=sentence):
        load_critic(path, reward_units="raw")


def test_units_of_rewards_that_a_source_does_not_tell_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(saved(states()))
    with pytest.raises(ValueError, match=r"a \.pt file does not hold the reward scaler"):
        load_critic(path, reward_units="raw")
    with pytest.raises(ValueError, match="reward_units: ensembles does not say how rewards were scaled"):
        load_critic(torch.nn.Linear(S + A, 1), action_dim=A, reward_units="raw")
    with pytest.raises(ValueError, match="reward_units: expected trained or raw, got 'units'"):
        load_critic(path, reward_units="units")


def test_pt_file_tells_its_widths_by_the_policy_and_takes_the_callers_scaling(tmp_path):
    held = states(members=3)
    path = tmp_path / "model.pt"
    path.write_bytes(saved(held))
    mean, std = torch.arange(S) * 1.0, torch.arange(S) + 1.0
    critic = load_critic(path, state_mean=mean, state_std=std)
    s, a = inputs()
    x = torch.cat([(s - mean) / std, a], dim=1)
    assert len(critic(s, a)) == 3
    for member, q in enumerate(critic(s, a)):
        torch.testing.assert_close(q, q_by_hand(held["q_funcs"], member, x))


def test_mean_of_quantiles_is_one_row_of_the_last_layer(tmp_path):
    held = states(members=1)
    weight = torch.randn(5, HIDDEN[-1])
    held["q_funcs"] |= {"0._fc.weight": weight, "0._fc.bias": torch.arange(5.0)}
    described = config(q_func_factory=part("qr", share_encoder=False, n_quantiles=5))
    critic = load_critic(write_d3(tmp_path / "model.d3", held, described))
    s, a = inputs()
    (q,) = critic(s, a)
    by_hand = q_by_hand(held["q_funcs"], 0, torch.cat([s, a], 1)).mean(1, keepdim=True)
    torch.testing.assert_close(q, by_hand, rtol=1e-5, atol=1e-5)
    assert critic.members[0][-1].out_features == 1


def test_implicit_quantiles_fold_into_the_last_layer(tmp_path):
    held, count, embed = states(members=1), 4, 3
    w, b = torch.randn(HIDDEN[-1], embed), torch.randn(HIDDEN[-1])
    held["q_funcs"] |= {"0._embed.weight": w, "0._embed.bias": b}
    described = config(q_func_factory=part("iqn", n_quantiles=8, n_greedy_quantiles=count, embed_size=embed))
    (q,) = load_critic(write_d3(tmp_path / "model.d3", held, described))(*inputs())
    steps, x = torch.arange(1, embed + 1), torch.cat(inputs(), 1)
    quantiles = []
    for i in range(count):
        phi = torch.relu(torch.cos(math.pi * steps * i / (count - 1)) @ w.T + b)
        changed = held["q_funcs"] | {"0._fc.weight": held["q_funcs"]["0._fc.weight"] * phi}
        quantiles.append(q_by_hand(changed, 0, x))
    torch.testing.assert_close(q, torch.stack(quantiles).mean(0), rtol=1e-5, atol=1e-5)


def test_refine_runs_on_the_compiled_backend_and_equals_an_autograd_loop(tmp_path):
    held = states()
    described = config(observation_scaler=STANDARD, action_scaler=MIN_MAX_ACTIONS)
    critic = load_critic(write_d3(tmp_path / "model.d3", held, described))
    s, a = inputs()
    a = a * 0.2 + 0.25
    options = {"steps": 3, "lr": 1e-3, "bounds": critic.bounds, "reduce": "mean"}
    assert dtag_fast.explain(critic, s, a, **options).backend == "cpu"

    def q_of(actions):
        x = torch.cat([scaled(STANDARD, s), scaled(MIN_MAX_ACTIONS, actions)], 1)
        return torch.stack([q_by_hand(held["q_funcs"], i, x) for i in range(2)]).mean(0).squeeze(1)

    low, high = (torch.from_numpy(bound) for bound in critic.bounds)
    best = current = a.clamp(low, high)
    best_q = q_of(best)
    for _ in range(3):
        current = current.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(q_of(current).sum(), current)
        current = (current + 1e-3 * gradient).clamp(low, high)
        q = q_of(current)
        best = torch.where((q > best_q)[:, None], current, best).detach()
        best_q = torch.maximum(q, best_q).detach()
    torch.testing.assert_close(dtag_fast.refine(critic, s, a, **options), best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (config("dqn"), "discrete"),
        (config("discrete_cql"), "discrete"),
        (config("decision_transformer"), "no Q function"),
        (config() | {"observation_shape": [3, 84, 84]}, "images and tuples"),
        (config() | {"observation_shape": [[S], [2]]}, "images and tuples"),
        (config() | {"observation_shape": [S + 1]}, "inputs of the Q functions"),
        (config() | {"action_size": "2"}, "action_size"),
        (config(observation_scaler=part("pixel")), "observation_scaler 'pixel'"),
        (config(observation_scaler=part("standard", mean=None, std=None)), "not fitted"),
        (config(observation_scaler=part("standard", mean=[1.0], std=["x"])), "finite numbers"),
        (config(observation_scaler=part("standard", mean=[0.0, 1.0], std=[1.0])), "expected 4 numbers"),
        (config(action_scaler=part("min_max", minimum=[0, 1], maximum=[1, 1])), "minimum below"),
        (config(action_scaler=part("tanh")), "action_scaler 'tanh'"),
        (config(critic_encoder_factory=part("simba")), "encoder 'simba'"),
        (config(critic_encoder_factory=part("vector", activation="geglu")), "activation 'geglu'"),
        (config(critic_encoder_factory=part("vector", hidden_units=[8, 7])), "hidden_units"),
        (config(q_func_factory=part("fqf")), "q_func_factory 'fqf'"),
        (config(q_func_factory=part("iqn", n_greedy_quantiles=10**9)), "n_greedy_quantiles"),
        (config(q_func_factory=part("qr", n_quantiles=7)), "quantiles"),
        ({"observation_shape": [S], "action_size": A}, "no config"),
        ('{"observation_shape": ' + "[" * 100_000 + '"action_size"', "nested"),
        ('"observation_shape" "action_size"', "expected JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path, described, said):
    path = write_d3(tmp_path / "model.d3", written=described)
    with pytest.raises(ValueError, match=said) as raised:
        load_critic(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_pickle_in_place_of_a_d3_file_never_runs(tmp_path):
    marker = tmp_path / "ran"

    class Executes:
        def __reduce__(self):
            return (Path.touch, (marker,))

    path = tmp_path / "model.d3"
    path.write_bytes(
        pickle.dumps({"torch": b"", "config": '"observation_shape" "action_size"', "version": Executes()})
    )
    with pytest.raises(ValueError, match="before anything of it ran"):
        load_critic(path)
    assert not marker.exists()


def test_critic_of_discrete_actions_without_configuration_is_refused(tmp_path):
    held = states()
    held["policy"] = {"_encoder._layers.0.weight": torch.zeros(8, S + A)}
    path = tmp_path / "model.pt"
    path.write_bytes(saved(held))
    with pytest.raises(ValueError, match="states alone"):
        load_critic(path, action_dim=A)


def encoders():
    from d3rlpy.models import DefaultEncoderFactory, VectorEncoderFactory

    return {
        "default": DefaultEncoderFactory(),
        "layer-norm": VectorEncoderFactory([32, 16], "swish", use_layer_norm=True, dropout_rate=0.3),
        "batch-norm": VectorEncoderFactory(
            [32, 16], "gelu", use_batch_norm=True, exclude_last_activation=True
        ),
        "both-norms": VectorEncoderFactory(
            [32, 16], "tanh", use_batch_norm=True, use_layer_norm=True, last_activation="relu"
        ),
    }


def q_functions():
    from d3rlpy.models import IQNQFunctionFactory, MeanQFunctionFactory, QRQFunctionFactory

    return {
        "mean": MeanQFunctionFactory(),
        "shared": MeanQFunctionFactory(share_encoder=True),
        "qr": QRQFunctionFactory(n_quantiles=7),
        "iqn": IQNQFunctionFactory(n_greedy_quantiles=9),
    }


def agrees_with_the_library(algo, tmp_path) -> None:
    """From memory and from `.d3`: the mean of the members is `predict_value`, on the compiled backend."""
    torch.manual_seed(0)
    algo.create_impl((S,), A)
    for module in algo.impl.modules.q_funcs.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    algo.save(str(tmp_path / "model.d3"))
    s, a = inputs(64)
    theirs = torch.from_numpy(algo.predict_value(s.numpy(), a.numpy()))
    for source in (algo, tmp_path / "model.d3"):
        critic = load_critic(source)
        ours = torch.stack(critic(s, a)).mean(0).squeeze(1)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert dtag_fast.explain(critic, s, a).backend == "cpu"


ALGORITHMS = ("AWAC", "BCQ", "BEAR", "CalQL", "CQL", "CRR", "DDPG", "IQL", "PLAS", "PLASWithPerturbation")
ALGORITHMS += ("PRDC", "ReBRAC", "SAC", "TD3", "TD3PlusBC")


@library
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_of_the_library(name, tmp_path):
    algorithms = pytest.importorskip("d3rlpy.algos")
    agrees_with_the_library(getattr(algorithms, f"{name}Config")().create(), tmp_path)


@library
@pytest.mark.parametrize("q_function", ["mean", "shared", "qr", "iqn"])
@pytest.mark.parametrize("encoder", ["default", "layer-norm", "batch-norm", "both-norms"])
def test_encoders_and_q_functions_of_the_library(encoder, q_function, tmp_path):
    algorithms = pytest.importorskip("d3rlpy.algos")
    from d3rlpy.preprocessing import MinMaxActionScaler, MultiplyRewardScaler, StandardObservationScaler

    algo = algorithms.CQLConfig(
        critic_encoder_factory=encoders()[encoder],
        q_func_factory=q_functions()[q_function],
        n_critics=3,
        observation_scaler=StandardObservationScaler(mean=np.arange(S), std=np.arange(S) + 0.5),
        action_scaler=MinMaxActionScaler(minimum=[-2.0, 0.0], maximum=[2.0, 0.5]),
        reward_scaler=MultiplyRewardScaler(10.0),
    )
    agrees_with_the_library(algo.create(), tmp_path)


@library
@pytest.mark.parametrize("kind", [kind for kind in REWARD_SCALERS if kind != "none"])
def test_differences_of_raw_q_are_those_that_the_librarys_scaler_gives_back(kind, tmp_path):
    algorithms = pytest.importorskip("d3rlpy.algos")
    preprocessing = importlib.import_module("d3rlpy.preprocessing")
    described, _ = REWARD_SCALERS[kind]
    name = {"min_max": "MinMax", "return": "ReturnBased", "shift": "ConstantShift"}.get(kind, kind.title())
    scaler = getattr(preprocessing, f"{name}RewardScaler")(**described["params"])
    algo = algorithms.TD3Config(reward_scaler=scaler).create()
    algo.create_impl((S,), A)
    algo.save(str(tmp_path / "model.d3"))
    s, a = (x.numpy() for x in inputs())
    expected = scaler.reverse_transform_numpy(algo.predict_value(s, a))
    for source in (algo, tmp_path / "model.d3"):
        members = load_critic(source, reward_units="raw")(*map(torch.from_numpy, (s, a)))
        q = torch.stack(members).mean(0)[:, 0].numpy()
        np.testing.assert_allclose(q - q[0], expected - expected[0], rtol=1e-4, atol=1e-5)


@library
def test_what_the_library_has_without_such_critics_is_refused(tmp_path):
    algorithms = pytest.importorskip("d3rlpy.algos")
    for name in ("DQN", "DiscreteSAC", "BC"):
        algo = getattr(algorithms, f"{name}Config")().create()
        algo.create_impl((S,), A)
        with pytest.raises(ValueError, match=r"discrete|no Q function"):
            load_critic(algo)
        algo.save_model(tmp_path / f"{name}.pt")
        with pytest.raises(ValueError, match=r"discrete actions|not a critic that can be read"):
            load_critic(tmp_path / f"{name}.pt")
    with pytest.raises(ValueError, match="not built"):
        load_critic(algorithms.SACConfig().create())
    with pytest.raises(ValueError, match="no Q function is known of it"):
        load_critic(algorithms.DecisionTransformerConfig().create())


@library
def test_an_algorithm_refines_its_own_actions():
    algorithms = pytest.importorskip("d3rlpy.algos")
    from d3rlpy.preprocessing import MinMaxActionScaler, StandardObservationScaler

    low, high = np.array([-2.0, 0.0]), np.array([2.0, 0.5])
    algo = algorithms.SACConfig(
        observation_scaler=StandardObservationScaler(mean=np.arange(S), std=np.arange(S) + 0.5),
        action_scaler=MinMaxActionScaler(minimum=low, maximum=high),
    ).create()
    torch.manual_seed(0)
    algo.create_impl((S,), A)
    states = inputs(40)[0].numpy()
    plain = algo.predict(states)
    refined, _ = RefinedPredictor(algo, steps=20, lr=3.0, reduce="mean").predict(states)
    gain = algo.predict_value(states, refined) - algo.predict_value(states, plain)
    assert gain.min() > -1e-5 and gain.max() > 1e-3
    assert (refined >= low - 1e-6).all() and (refined <= high + 1e-6).all()
