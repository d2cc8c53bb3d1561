"""Critics of Stable-Baselines3 and TQC: from files made by hand, and from the libraries where they are."""

import base64
import io
import json
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from dtag_fast import explain, refine
from dtag_fast.interop import load_critic
from dtag_fast.rollout.reference import autograd_action_gradient

S, A, WIDTH = 3, 2, 8
LOW, HIGH = np.array([-2.0, 0.5]), np.array([2.0, 1.5])
ACTIVATION = {"ReLU": lambda x: np.maximum(x, 0), "Tanh": np.tanh}


class Runs:
    """Leaves a file behind where its pickle is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def weights_of(members=2, outputs=1, inputs=S + A, seed=0):
    """A state dict as SB3 writes it, actor and target critic beside the critic."""
    rng = np.random.default_rng(seed)
    sizes = [(WIDTH, inputs), (WIDTH, WIDTH), (outputs, WIDTH)]
    tensors = {"actor.latent_pi.0.weight": torch.zeros(WIDTH, S), "actor.mu.bias": torch.zeros(A)}
    for name in ("critic", "critic_target"):
        for i in range(members):
            for j, (rows, columns) in enumerate(sizes):
                layer = f"{name}.qf{i}.{2 * j}"
                tensors[f"{layer}.weight"] = torch.tensor(
                    rng.normal(size=(rows, columns)), dtype=torch.float32
                )
                tensors[f"{layer}.bias"] = torch.tensor(rng.normal(size=rows), dtype=torch.float32)
    return tensors


def data_of(**changes):
    """The JSON of `data`, pickles as text that decodes to nothing."""
    box = {":type:": "<class 'gymnasium.spaces.box.Box'>", ":serialized:": "bm90IGEgcGlja2xl"}
    policy = {":type:": "<class 'abc.ABCMeta'>", "__module__": "stable_baselines3.sac.policies"}
    return {
        "policy_class": policy,
        "policy_kwargs": {"net_arch": [WIDTH, WIDTH], "use_sde": False},
        "observation_space": box | {"dtype": "float32", "_shape": [S], "low": "[-1. -1. -8.]"},
        "action_space": box | {"dtype": "float32", "_shape": [A], "low": "[-2.   0.5]", "high": "[2.  1.5]"},
    } | changes


def write(path, tensors, data):
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", data if isinstance(data, bytes | str) else json.dumps(data))
        archive.writestr("policy.pth", buffer.getvalue())
        archive.writestr("pytorch_variables.pth", b"")
        archive.writestr("_stable_baselines3_version", "2.9.2")
    return path


def by_hand(tensors, states, actions, name="critic", activation="ReLU"):
    """(B, members, outputs) in float64."""
    tensors = {key: t.double().numpy() for key, t in tensors.items()}
    scaled = 2 * (actions - LOW) / (HIGH - LOW) - 1
    values = []
    for i in range(sum(f"{name}.qf{i}.0.weight" in tensors for i in range(9))):
        x = np.concatenate([states, scaled], axis=-1)
        for j in (0, 2, 4):
            x = x @ tensors[f"{name}.qf{i}.{j}.weight"].T + tensors[f"{name}.qf{i}.{j}.bias"]
            x = x if j == 4 else ACTIVATION[activation](x)
        values.append(x)
    return np.stack(values, axis=1)


def batch(count=7, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, S)), rng.uniform(LOW, HIGH, (count, A))


def q_of(critic, states, actions):
    """(B, members)."""
    given = (torch.as_tensor(x, dtype=torch.float32) for x in (states, actions))
    return torch.cat(critic(*given), dim=-1).numpy()


@pytest.mark.parametrize("members", [1, 2, 3])
@pytest.mark.parametrize("target", [False, True])
def test_a_file_gives_the_q_of_raw_states_and_actions(tmp_path, members, target):
    tensors, (states, actions) = weights_of(members), batch()
    critic = load_critic(write(tmp_path / "sac.zip", tensors, data_of()), target=target)
    expected = by_hand(tensors, states, actions, "critic_target" if target else "critic")[..., 0]
    np.testing.assert_allclose(q_of(critic, states, actions), expected, rtol=1e-5, atol=1e-5)
    assert (critic.state_dim, critic.action_dim, len(critic.members)) == (S, A, members)
    np.testing.assert_array_equal(critic.bounds, np.array([LOW, HIGH], np.float32))
    assert "SAC" in critic.source and not any(p.requires_grad for p in critic.parameters())


def test_a_file_without_its_policy_kwargs_asks_for_the_activation(tmp_path):
    """As `model.save(..., exclude=["policy_kwargs"])` leaves it."""
    tensors, (states, actions) = weights_of(), batch()
    data = data_of()
    del data["policy_kwargs"]
    path = write(tmp_path / "sac.zip", tensors, data)
    with pytest.raises(ValueError, match=r"policy_kwargs was left out .* give activation="):
        load_critic(path)
    expected = by_hand(tensors, states, actions, activation="Tanh")[..., 0]
    critic = load_critic(path, activation="tanh")
    np.testing.assert_allclose(q_of(critic, states, actions), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stands", ["in the file", "given"])
def test_other_activations(tmp_path, stands):
    tensors, (states, actions) = weights_of(), batch()
    named = {"activation_fn": "<class 'torch.nn.modules.activation.Tanh'>"}
    unnamed = {"activation_fn": "<function <lambda> at 0x7f0>"}
    path = write(
        tmp_path / "sac.zip", tensors, data_of(policy_kwargs=named if stands == "in the file" else unnamed)
    )
    critic = load_critic(path, activation=None if stands == "in the file" else "tanh")
    if stands == "in the file":
        assert load_critic(path, activation="tanh")
        with pytest.raises(ValueError, match=r"activation: .* has tanh, got 'relu'; leave activation out"):
            load_critic(path, activation="relu")
    with pytest.raises(ValueError, match="norm: sources of stable-baselines3 say it or have none"):
        load_critic(path, norm="before")
    expected = by_hand(tensors, states, actions, activation="Tanh")[..., 0]
    np.testing.assert_allclose(q_of(critic, states, actions), expected, rtol=1e-5, atol=1e-5)
    if stands == "given":
        with pytest.raises(ValueError, match=r"activation_fn: expected one of ReLU.*lambda"):
            load_critic(path)


def test_states_are_standardised_by_what_the_caller_names(tmp_path):
    tensors, (states, actions) = weights_of(), batch()
    mean, std = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.5, 4.0])
    critic = load_critic(write(tmp_path / "sac.zip", tensors, data_of()), state_mean=mean, state_std=std)
    expected = by_hand(tensors, (states - mean) / std, actions)[..., 0]
    np.testing.assert_allclose(q_of(critic, states, actions), expected, rtol=1e-5, atol=1e-5)


def test_quantiles(tmp_path):
    """TQC: 2 members of 5 quantiles; mean of each, or of the 6 smallest where 2 per member are dropped."""
    tensors, (states, actions) = weights_of(outputs=5), batch()
    path = write(tmp_path / "tqc.zip", tensors, data_of(top_quantiles_to_drop_per_net=2))
    quantiles = by_hand(tensors, states, actions)
    mean, truncated = load_critic(path), load_critic(path, quantiles="truncated")
    np.testing.assert_allclose(q_of(mean, states, actions), quantiles.mean(-1), rtol=1e-5, atol=1e-5)
    kept = np.sort(quantiles.reshape(len(states), -1))[:, :6].mean(-1, keepdims=True)
    np.testing.assert_allclose(q_of(truncated, states, actions), kept, rtol=1e-5, atol=1e-5)
    some = torch.as_tensor(states, dtype=torch.float32)
    assert explain(mean, some).backend == "cpu" and explain(mean, some).lowered
    with pytest.warns(RuntimeWarning, match="autograd"):
        assert explain(truncated, some).backend == "torch"
        refined = refine(truncated, some.numpy(), actions.astype(np.float32), bounds=truncated.bounds, lr=0.1)
    q_0, q_best = (q_of(truncated, states, a) for a in (actions.astype(np.float32), refined))
    assert (q_best >= q_0).all() and (q_best > q_0 + 1e-3).any()
    for dropped in (5, -1):
        bad = write(tmp_path / "bad.zip", tensors, data_of(top_quantiles_to_drop_per_net=dropped))
        with pytest.raises(ValueError, match="top_quantiles_to_drop_per_net from 0 to 4"):
            load_critic(bad, quantiles="truncated")
    with pytest.raises(ValueError, match=r"truncated.*does not say"):
        load_critic(write(tmp_path / "sac.zip", weights_of(), data_of()), quantiles="truncated")


@pytest.mark.parametrize("outputs", [1, 5])
def test_refine_takes_the_compiled_backend_and_climbs_as_an_autograd_loop(tmp_path, outputs):
    tensors, (states, actions) = weights_of(outputs=outputs), batch()
    critic = load_critic(write(tmp_path / "sac.zip", tensors, data_of()))
    states, actions = (torch.as_tensor(x, dtype=torch.float32) for x in (states, actions))
    answer = explain(critic, states)
    assert answer.backend == "cpu" and f"{S} + {A} -> {WIDTH} relu -> {WIDTH} relu -> 1" in answer.critic

    def own(s, a):  # the library's way: scale, then its members
        low, high = (torch.as_tensor(x, dtype=torch.float32) for x in (LOW, HIGH))
        x = torch.cat([s, 2 * (a - low) / (high - low) - 1], dim=-1)
        values = []
        for i in range(2):
            h = x
            for j in (0, 2, 4):
                h = nn.functional.linear(
                    h, tensors[f"critic.qf{i}.{j}.weight"], tensors[f"critic.qf{i}.{j}.bias"]
                )
                h = h if j == 4 else h.relu()
            values.append(h.mean(-1, keepdim=True))
        return values

    low, high = (torch.as_tensor(x, dtype=torch.float32) for x in (LOW, HIGH))
    improve = autograd_action_gradient(own, steps=5, lr=0.02, low=low, high=high)
    expected = torch.cat([improve(s[None], a[None]) for s, a in zip(states, actions, strict=True)])
    refined = refine(critic, states, actions, steps=5, lr=0.02, bounds=critic.bounds)
    torch.testing.assert_close(refined, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(refined, actions, atol=1e-3)


def test_actions_of_another_width_are_refused(tmp_path):
    critic = load_critic(write(tmp_path / "sac.zip", weights_of(), data_of()))
    with pytest.raises(ValueError, match=r"expected states and actions of \(S, A\) = \(3, 2\), got \(3, 1\)"):
        critic(torch.zeros(4, S), torch.zeros(4, 1))


def changed(entry, **values):
    return data_of(**{entry: data_of()[entry] | values})


IMAGES = changed("observation_space", _shape=[3, 8, 8], dtype="uint8")
DICT = changed("observation_space", **{":type:": "<class 'gymnasium.spaces.dict.Dict'>"})
OWN = changed("policy_kwargs", features_extractor_class="<class '__main__.Mine'>")
NO_BOUNDS = changed("action_space", low="[-inf -1.]")
ELSEWHERE = changed("policy_class", __module__="my_project.policies")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (IMAGES, r"vectors, got images \(3, 8, 8\)"),
        (DICT, "observations of a Box space, got .*Dict.*FlattenObservation"),
        (OWN, "features extractor .*Mine.* is not read"),
        (ELSEWHERE, "of the module 'my_project.policies'"),
        (NO_BOUNDS, r"low: expected 2 finite numbers, got \[-inf"),
        (changed("action_space", low="[1. 2. 3.]"), "low: expected 2 finite numbers"),
        (changed("action_space", low="[3. 3.]"), "low below high"),
        (changed("action_space", _shape=[2, 1]), r"vectors \(A,\), got shape \(2, 1\)"),
        (changed("action_space", _shape=["2"]), "expected a shape"),
        (changed("action_space", _shape=[1], low="[-1.]", high="[1.]"), "shapes do not fit"),
        (
            changed("observation_space", _shape=[4]),
            r"shapes do not fit: .* 5 inputs beside observations \(4,\)",
        ),
        (changed("action_space", low=None), "action_dim: .* does not say it"),
        (b"{", "expected JSON, it is damaged"),
        (b"[" * 200_000, "JSON nested deeper"),
        (b"[1]", "expected a JSON object, got list"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(tmp_path, data, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_critic(write(tmp_path / "sac.zip", weights_of(), data))


def without(tensors, prefix):
    return {name: t for name, t in tensors.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (without(weights_of(), "critic"), "has no Q of continuous actions"),
        (without(weights_of(3), "critic.qf1"), "without a gap"),
        (weights_of() | {"critic.features_extractor.cnn.0.weight": torch.ones(2, 2)}, "features extractor"),
        (weights_of() | {"critic.qf0.1.running_mean": torch.ones(WIDTH)}, "batch normalisation"),
        (weights_of() | {"critic.qf0.1.kernel": torch.ones(WIDTH)}, "Linear and LayerNorm layers alone"),
        (weights_of() | {"critic.qf1.0.weight": torch.ones(WIDTH, 9)}, "all of the same inputs"),
        (weights_of() | {"critic.qf1.2.weight": torch.ones(WIDTH, 9)}, "expected 8 inputs"),
        (weights_of() | {"critic.qf0.5.weight": torch.ones(1)}, "ends in a Linear layer"),
        (
            weights_of() | {"critic.qf0.2.weight": torch.ones(1).expand(10**6, 10**6)},
            "refused: a tensor of shape",
        ),
        (
            weights_of() | {"critic.qf0.2.weight": torch.ones(WIDTH, WIDTH).to_sparse()},
            "asks for 'torch._utils._rebuild_sparse_tensor'.*; save state dicts of dense",
        ),
        ([torch.ones(2)], "expected a state dict, got an object of class list"),
    ],
)
def test_weights_that_are_no_such_critic_are_refused(tmp_path, tensors, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_critic(write(tmp_path / "sac.zip", tensors, data_of()))


def test_without_a_target_critic(tmp_path):
    path = write(tmp_path / "crossq.zip", without(weights_of(), "critic_target"), data_of())
    assert load_critic(path).state_dim == S
    with pytest.raises(ValueError, match="holds no critic_target"):
        load_critic(path, target=True)


def test_a_file_that_does_not_tell_its_spaces(tmp_path):
    """The caller then names A and the bounds that actions are scaled by."""
    tensors, (states, actions) = weights_of(), batch()
    path = write(tmp_path / "old.zip", tensors, {})
    with pytest.raises(ValueError, match="action_dim"):
        load_critic(path, activation="relu")
    with pytest.raises(ValueError, match=r"action_low, action_high: .* does not say the bounds"):
        load_critic(path, activation="relu", action_dim=A)
    critic = load_critic(path, activation="relu", action_dim=A, action_low=LOW, action_high=HIGH)
    expected = by_hand(tensors, states, actions)[..., 0]
    np.testing.assert_allclose(q_of(critic, states, actions), expected, rtol=1e-5, atol=1e-5)
    told = write(tmp_path / "new.zip", tensors, data_of())
    with pytest.raises(ValueError, match=r"action_dim: .* has 2, got 1"):
        load_critic(told, action_dim=1)


def test_bounds_of_the_caller_replace_those_to_refine_within_and_change_no_q(tmp_path):
    tensors, (states, actions) = weights_of(), batch()
    path = write(tmp_path / "sac.zip", tensors, data_of())
    critic = load_critic(path, action_low=[-1, 0.5], action_high=[1, 1])
    np.testing.assert_array_equal(critic.bounds, [[-1, 0.5], [1, 1]])
    np.testing.assert_array_equal(q_of(critic, states, actions), q_of(load_critic(path), states, actions))


def test_nothing_in_a_file_is_executed(tmp_path):
    mark = tmp_path / "executed"
    bomb = pickle.dumps(Runs(mark))
    data = data_of()
    for entry in data.values():
        entry[":serialized:"] = base64.b64encode(bomb).decode()
    assert load_critic(write(tmp_path / "sac.zip", weights_of(), data)).state_dim == S
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", bomb)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="refused before anything of it ran"):
        warnings.simplefilter("ignore")  # torch wonders at the pickle's protocol
        load_critic(tmp_path / "bad.zip")
    write(tmp_path / "object.zip", weights_of() | {"extra": Runs(mark)}, data_of())
    with pytest.raises(ValueError, match="refused before anything of it ran"):
        load_critic(tmp_path / "object.zip")
    assert not mark.exists()


def test_damaged_files_load_or_are_refused_with_a_sentence(tmp_path):
    """400 mutations: bytes changed, cut off, and values of the JSON replaced by others."""
    rng = np.random.default_rng(0)
    whole = write(tmp_path / "sac.zip", weights_of(), data_of()).read_bytes()
    odd = [None, True, -1, 0, 2**70, 1e308, "", "[]", "[nan nan]", [], [[]], {}, {":type:": 3}, "<class 'x'>"]
    refused, path = 0, tmp_path / "mutated.zip"
    for turn in range(400):
        if turn % 4 == 0:
            path.write_bytes(whole[: rng.integers(len(whole))])
        elif turn % 2:
            content = bytearray(whole)
            for place in rng.integers(len(whole), size=rng.integers(1, 9)):
                content[place] = rng.integers(256)
            path.write_bytes(content)
        else:
            data = data_of()
            entry = data[rng.choice(sorted(data))]
            entry[rng.choice(["_shape", "low", "high", "activation_fn", ":type:", "__module__", "dtype"])] = (
                odd[rng.integers(len(odd))]
            )
            if rng.random() < 0.3:
                data[rng.choice(sorted(data))] = odd[rng.integers(len(odd))]
            write(path, weights_of(), data)
        try:
            critic = load_critic(path)
        except ValueError as error:
            assert len(str(error)) > 20
            refused += 1
        else:
            assert (critic.state_dim, critic.action_dim) == (S, A)
    assert 100 < refused < 400


# --- against the libraries themselves


def box_env(dict_observations=False, images=False):
    """An environment of S numbers and actions in [LOW, HIGH]."""
    import gymnasium

    class Env(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-5, 5, (S,), np.float32)
        action_space = gymnasium.spaces.Box(LOW.astype("f4"), HIGH.astype("f4"))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return self._see(), {}

        def step(self, action):
            self.t += 1
            return self._see(), float(action.sum()), False, self.t == 20, {}

        def _see(self):
            seen = self.observation_space.sample() if not images else np.zeros((36, 36, 3), np.uint8)
            return seen

    if images:
        Env.observation_space = gymnasium.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    if dict_observations:
        Env.observation_space = gymnasium.spaces.Dict(
            {"observation": gymnasium.spaces.Box(-5, 5, (S,), np.float32)}
        )
    return Env()


def foreign_q(model, states, actions, target=False):
    """(B, members) by the library's own modules."""
    critic = model.policy.critic_target if target else model.policy.critic
    scaled = model.policy.scale_action(np.asarray(actions, np.float32))
    with torch.no_grad():
        values = critic(torch.as_tensor(states, dtype=torch.float32), torch.as_tensor(scaled))
        return values.mean(-1).numpy() if torch.is_tensor(values) else torch.cat(values, dim=-1).numpy()


def scatter(model, seed=3):
    """Weights of critic and target that differ, as after training."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name in ("critic", "critic_target"):
            for parameter in getattr(model.policy, name).parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def model_of(name, env=None, **policy_kwargs):
    library = pytest.importorskip("sb3_contrib" if name == "TQC" else "stable_baselines3")
    policy_kwargs = {"net_arch": {"pi": [8], "qf": [16, 12]}} | policy_kwargs
    return scatter(
        getattr(library, name)(
            "MlpPolicy", env or box_env(), policy_kwargs=policy_kwargs, buffer_size=9, seed=0
        )
    )


@pytest.mark.parametrize("target", [False, True])
@pytest.mark.parametrize("activation", ["ReLU", "ELU", "LeakyReLU", "Softplus"])
@pytest.mark.parametrize("name", ["SAC", "TD3", "DDPG", "TQC"])
def test_models_and_their_files_against_the_library(tmp_path, name, activation, target):
    model, (states, actions) = model_of(name, activation_fn=getattr(nn, activation)), batch(50)
    model.save(tmp_path / "model.zip")
    expected = foreign_q(model, states, actions, target)
    with pytest.raises(ValueError, match=f"activation: a {name} in memory says it itself"):
        load_critic(model, activation=activation.lower())
    for source in (tmp_path / "model.zip", os.fspath(tmp_path / "model.zip"), model, model.policy):
        critic = load_critic(source, target=target)
        np.testing.assert_allclose(q_of(critic, states, actions), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(critic.bounds, np.array([LOW, HIGH], np.float32))
        answer = explain(critic, torch.as_tensor(states, dtype=torch.float32))
        assert answer.backend == "cpu" and answer.lowered
    module = model.policy.critic_target if target else model.policy.critic
    np.testing.assert_array_equal(q_of(load_critic(module), states, actions), q_of(critic, states, actions))
    if target:
        assert not np.allclose(expected, foreign_q(model, states, actions), atol=1e-2)
        with pytest.raises(ValueError, match="give the model or its policy"):
            load_critic(module, target=True)


def test_a_copy_is_taken(tmp_path):
    model, (states, actions) = model_of("SAC"), batch()
    critic = load_critic(model)
    before = q_of(critic, states, actions)
    scatter(model, seed=8)
    np.testing.assert_array_equal(q_of(critic, states, actions), before)


def test_truncated_quantiles_against_tqc(tmp_path):
    pytest.importorskip("sb3_contrib")
    model, (states, actions) = model_of("TQC", n_quantiles=7, n_critics=3), batch(20)
    model.top_quantiles_to_drop_per_net = 3
    model.save(tmp_path / "tqc.zip")
    scaled = torch.as_tensor(model.policy.scale_action(actions.astype(np.float32)))
    with torch.no_grad():  # as TQC.train makes its target
        quantiles = model.critic_target(torch.as_tensor(states, dtype=torch.float32), scaled)
        kept = model.critic.quantiles_total - model.top_quantiles_to_drop_per_net * model.critic.n_critics
        expected = quantiles.reshape(len(states), -1).sort().values[:, :kept].mean(-1, keepdim=True).numpy()
    for source in (model, tmp_path / "tqc.zip"):
        critic = load_critic(source, quantiles="truncated", target=True)
        np.testing.assert_allclose(q_of(critic, states, actions), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="top_quantiles_to_drop_per_net, which"):
        load_critic(model.policy.critic, quantiles="truncated")


def test_refine_equals_an_autograd_loop_on_the_library_s_q():
    model, (states, actions) = model_of("TD3", activation_fn=nn.Tanh), batch(20)
    states, actions = (torch.as_tensor(x, dtype=torch.float32) for x in (states, actions))
    low, high = (torch.as_tensor(x, dtype=torch.float32) for x in (LOW, HIGH))

    def q(s, a):
        return model.policy.critic(s, 2 * (a - low) / (high - low) - 1)

    improve = autograd_action_gradient(q, steps=10, lr=0.1, low=low, high=high)
    expected = torch.cat([improve(s[None], a[None]) for s, a in zip(states, actions, strict=True)])
    critic = load_critic(model)
    refined = refine(critic, states, actions, steps=10, lr=0.1, bounds=critic.bounds)
    torch.testing.assert_close(refined, expected, rtol=1e-4, atol=1e-4)
    assert (refined - actions).abs().max() > 0.05


def test_observations_of_a_normalised_vector_environment(tmp_path):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    venv = VecNormalize(DummyVecEnv([box_env]), clip_obs=1e9, epsilon=0.3)
    venv.reset()
    for _ in range(50):
        venv.step(np.array([venv.action_space.sample()]))
    model, (states, actions) = model_of("SAC", venv), batch(20)
    expected = foreign_q(model, venv.normalize_obs(states), actions)
    assert not np.allclose(expected, foreign_q(model, states, actions), atol=1e-2)
    np.testing.assert_allclose(q_of(load_critic(model), states, actions), expected, rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "sac.zip")
    statistics = {
        "state_mean": venv.obs_rms.mean,
        "state_std": np.sqrt(venv.obs_rms.var + venv.epsilon),
    }
    critic = load_critic(tmp_path / "sac.zip", **statistics)
    np.testing.assert_allclose(q_of(critic, states, actions), expected, rtol=1e-5, atol=1e-5)
    venv.norm_obs = False
    unscaled = foreign_q(model, states, actions)
    np.testing.assert_allclose(q_of(load_critic(model), states, actions), unscaled, rtol=1e-5, atol=1e-5)


def test_models_without_such_a_critic_are_refused(tmp_path):
    library = pytest.importorskip("stable_baselines3")
    small = {"net_arch": [8]}
    ppo = library.PPO("MlpPolicy", box_env(), policy_kwargs=small, n_steps=8, batch_size=8)
    goals = library.SAC(
        "MultiInputPolicy", box_env(dict_observations=True), policy_kwargs=small, buffer_size=9
    )
    cnn = library.SAC(
        "CnnPolicy",
        box_env(images=True),
        buffer_size=9,
        policy_kwargs=small | {"features_extractor_kwargs": {"features_dim": 8}},
    )
    for model, sentence in (
        (ppo, "no Q of continuous actions"),
        (goals, "features extractor|Dict"),
        (cnn, "features extractor"),
    ):
        model.save(tmp_path / "model.zip")
        for source in (model, tmp_path / "model.zip"):
            with pytest.raises(ValueError, match=sentence):
                load_critic(source)


def test_crossq_and_critics_of_one_s_own_are_refused(tmp_path):
    contrib = pytest.importorskip("sb3_contrib")
    from stable_baselines3.common.policies import ContinuousCritic

    model = contrib.CrossQ("MlpPolicy", box_env(), policy_kwargs={"net_arch": [8]}, buffer_size=9)
    model.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="CrossQCritic is not that of SAC"):
        load_critic(model)
    with pytest.raises(ValueError, match="batch normalisation, as in CrossQ"):
        load_critic(tmp_path / "model.zip")

    class Doubled(ContinuousCritic):
        def forward(self, obs, actions):
            return tuple(2 * q for q in super().forward(obs, actions))

    sac = model_of("SAC")
    sac.policy.critic.__class__ = Doubled
    with pytest.raises(ValueError, match="Doubled is not that of SAC"):
        load_critic(sac)
    sac = model_of("SAC")
    sac.policy.critic.q_networks[1] = nn.Sequential(nn.Linear(S + A, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    with pytest.raises(ValueError, match="qf1: a layer of class BatchNorm1d is not read"):
        load_critic(sac)


@pytest.mark.parametrize("box", [spaces.Box(-1, 1, (A,)), spaces.Box(-1, 2, (A,))], ids=["unit", "other"])
def test_plain_refine_takes_its_critic_where_no_action_was_scaled(box):
    """By a module whose class says that it is the library's."""
    kind = type("ContinuousCritic", (nn.Sequential,), {"__module__": "stable_baselines3.common.policies"})
    critic = kind(nn.Linear(S + A, 1))
    critic.action_space = box
    states, actions = torch.ones(2, S), torch.zeros(2, A)
    if box.high[0] == 1:
        assert refine(critic, states, actions).shape == (2, A)
    else:
        with pytest.raises(ValueError, match=r"scaled to \[-1, 1\].*load_critic\(critic\)"):
            refine(critic, states, actions, bounds=box)


def test_plain_refine_of_the_library_s_critic():
    model = model_of("SAC")
    space = model.action_space
    states, actions = np.zeros((3, *model.observation_space.shape), np.float32), space.low[None].repeat(3, 0)
    with pytest.raises(ValueError, match=r"dtag_fast\.interop\.load_critic"):
        refine(model.critic, states, actions, bounds=space)
    assert refine(load_critic(model), states, actions, bounds=space).shape == actions.shape
