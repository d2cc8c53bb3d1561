"""Flax parameter trees: against Flax itself where it is there, else against a Q computed here by hand."""

import json
import re

import numpy as np
import pytest
import torch
from foreign_q import assert_climbs, assert_q
from safetensors.numpy import save_file

from dtag_fast.interop import load_critic

S, A, H, E = 5, 3, 16, 4


def dense(generator, n, m, members=()):
    return {
        "kernel": (generator.normal(size=(*members, n, m)) / n**0.5).astype(np.float32),
        "bias": (generator.normal(size=(*members, m)) / 4).astype(np.float32),
    }


def layer_norm(generator, m, members=()):
    return {
        "scale": generator.uniform(0.5, 2, (*members, m)).astype(np.float32),
        "bias": generator.normal(size=(*members, m)).astype(np.float32),
    }


def network(seed=0, members=(), norm=False, names="Dense_{}", inputs=S + A, outputs=1):
    """Layers of widths H and H."""
    generator = np.random.default_rng(seed)
    tree = {}
    for i, (n, m) in enumerate([(inputs, H), (H, H), (H, outputs)]):
        tree[names.format(i)] = dense(generator, n, m, members)
        if norm and i < 2:
            tree[f"LayerNorm_{i}"] = layer_norm(generator, m, members)
    return tree


def q_by_hand(tree, place=None, activation=torch.relu, names="Dense_{}"):
    """(states, actions) -> (1, rows) of one network: kernels (in, out), LayerNorm with eps 1e-6."""
    tree = {name: {kind: torch.from_numpy(x) for kind, x in layer.items()} for name, layer in tree.items()}

    def normed(i, x):
        layer = tree[f"LayerNorm_{i}"]
        return torch.nn.functional.layer_norm(x, x.shape[-1:], layer["scale"], layer["bias"], 1e-6)

    def q(states, actions):
        x = torch.cat([states, actions], -1)
        for i in range(2):
            x = x @ tree[names.format(i)]["kernel"] + tree[names.format(i)]["bias"]
            x = normed(i, x) if place == "before" else x
            x = activation(x)
            x = normed(i, x) if place == "after" else x
        return (x @ tree[names.format(2)]["kernel"] + tree[names.format(2)]["bias"]).T

    return q


def stacked_q(tree, *args, **kwargs):
    """The same for a tree with a leading axis of members, (E, rows)."""

    def member(i):
        return {name: {kind: x[i] for kind, x in layer.items()} for name, layer in tree.items()}

    return lambda s, a: torch.cat([q_by_hand(member(i), *args, **kwargs)(s, a) for i in range(E)])


def both(*qs):
    return lambda s, a: torch.cat([q(s, a) for q in qs])


def flat(tree, separator, prefix=""):
    found = {}
    for name, part in tree.items():
        if isinstance(part, dict):
            found |= flat(part, separator, f"{prefix}{name}{separator}")
        else:
            found[f"{prefix}{name}"] = part
    return found


def ext(code, data):
    msgpack = pytest.importorskip("msgpack")
    return msgpack.ExtType(code, data)


def to_bytes(tree, dtype="float32"):
    """As flax.serialization.to_bytes writes it: extension 1 holds (shape, dtype, bytes)."""
    msgpack = pytest.importorskip("msgpack")

    def packed(part):
        if isinstance(part, dict):
            return {name: packed(inside) for name, inside in part.items()}
        return ext(1, msgpack.packb((part.shape, dtype, part.astype(dtype).tobytes()), use_bin_type=True))

    return msgpack.packb(packed(tree), strict_types=True)


ACTOR = {
    "params": network(9, inputs=S, outputs=A) | {"log_std": {"bias": np.zeros(A, np.float32)}},
}


def test_a_tree_in_memory():
    tree = network()
    critic = load_critic({"params": tree}, action_dim=A)
    assert (critic.source, critic.state_dim, critic.action_dim) == ("Flax", S, A)
    assert_q(critic, q_by_hand(tree))
    assert_climbs(critic, q_by_hand(tree))


@pytest.mark.parametrize("place", ["before", "after"])
def test_where_the_layer_norms_stand_is_asked_for(place):
    tree = network(norm=True)
    with pytest.raises(ValueError, match="norm='before' or norm='after'"):
        load_critic(tree, action_dim=A)
    critic = load_critic(tree, action_dim=A, norm=place)
    assert_q(critic, q_by_hand(tree, place))
    assert_climbs(critic, q_by_hand(tree, place))


def test_the_eps_of_a_layer_norm_is_that_of_flax():
    tree = network(norm=True)
    for name in ("Dense_0", "Dense_1"):  # variances near eps, where 1e-5 in its place is far off
        tree[name] = {kind: 1e-3 * x for kind, x in tree[name].items()}
    q = q_by_hand(tree, "before")
    assert_q(load_critic(tree, action_dim=A, norm="before"), q)


@pytest.mark.parametrize("place", [None, "after"])
@pytest.mark.parametrize("name", ["VmapCritic_0", "VmapQNetwork_0", "critic", "qf"])
def test_an_axis_of_members_becomes_members(name, place):
    tree = network(members=(E,), norm=place is not None)
    critic = load_critic({"params": {name: tree}}, action_dim=A, norm=place)
    assert len(critic.members) == E
    assert_q(critic, stacked_q(tree, place))
    assert_climbs(critic, stacked_q(tree, place))


@pytest.mark.parametrize(
    "names", [("critic_1", "critic_2"), ("q1", "q2"), ("Critic_0", "Critic_1"), ("qf1", "qf2")]
)
def test_two_critics_are_two_members(names):
    trees = network(1), network(2)
    source = {name: {"params": {"MLP_0": tree}} for name, tree in zip(names, trees, strict=True)}
    critic = load_critic(source | {"actor": ACTOR, "step": 7})
    assert critic.action_dim == A  # by the actor
    assert_q(critic, both(*map(q_by_hand, trees)))
    assert_climbs(critic, both(*map(q_by_hand, trees)))


@pytest.mark.parametrize(
    ("names", "last"),
    [("fc{}", "fc2"), ("linear{}", "out"), ("layers_{}", "layers_2"), ("Dense_{}", "OutputDenseQ")],
)
def test_names_of_layers(names, last):
    tree = network(names=names)
    renamed = {name: layer for name, layer in tree.items() if name != names.format(2)}
    renamed[last] = tree[names.format(2)]
    shuffled = dict(sorted(renamed.items(), reverse=True))
    assert_q(load_critic(shuffled, action_dim=A), q_by_hand(tree, names=names))


def test_a_body_and_a_layer_after_it():
    tree = network()
    source = {"MLP_0": {name: tree[name] for name in ("Dense_0", "Dense_1")}, "Dense_0": tree["Dense_2"]}
    assert_q(load_critic(source, action_dim=A), q_by_hand(tree))


@pytest.mark.parametrize(("place", "norms"), [("before", (1, 4)), ("after", (2, 5))])
def test_the_numbers_of_a_sequential_tell_where_a_layer_norm_stands(place, norms):
    tree = network(norm=True)
    source = {"layers": {str(3 * i): tree[f"Dense_{i}"] for i in range(3)}}
    source["layers"] |= {str(n): tree[f"LayerNorm_{i}"] for i, n in enumerate(norms)}
    assert_q(load_critic(source, action_dim=A), q_by_hand(tree, place))


def test_eleven_layers_stand_in_the_order_of_their_numbers():
    """Dense_10 comes after Dense_9 and not after Dense_1; too deep to be compiled, so Q alone is compared."""
    generator = np.random.default_rng(0)
    widths = [S + A, *range(20, 10, -1), 1]
    layers = [dense(generator, n, m) for n, m in zip(widths, widths[1:], strict=False)]  # noqa: RUF007
    tree = {f"Dense_{i}": layer for i, layer in enumerate(layers)}

    def q(states, actions):
        x = torch.cat([states, actions], -1)
        for layer in layers[:-1]:
            x = torch.relu(x @ torch.from_numpy(layer["kernel"]) + torch.from_numpy(layer["bias"]))
        return (x @ torch.from_numpy(layers[-1]["kernel"]) + torch.from_numpy(layers[-1]["bias"])).T

    assert_q(load_critic(dict(sorted(tree.items())), action_dim=A), q)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("silu", torch.nn.functional.silu),
        ("tanh", torch.tanh),
        ("leaky_relu", torch.nn.functional.leaky_relu),
        ("softplus", torch.nn.functional.softplus),
        ("gelu_tanh", torch.nn.GELU("tanh")),
    ],
)
def test_other_activations_are_named(activation, function):
    tree = network()
    assert_q(load_critic(tree, action_dim=A, activation=activation), q_by_hand(tree, activation=function))
    with pytest.raises(ValueError, match=r"activation: expected one of identity, .*, got 'sigmoid'"):
        load_critic(tree, action_dim=A, activation="sigmoid")


def test_standardised_states_are_folded_in():
    tree, mean, std = network(), torch.linspace(-1, 2, S), torch.linspace(0.5, 3, S)
    critic = load_critic(tree, action_dim=A, state_mean=mean, state_std=std)
    q = lambda s, a: q_by_hand(tree)((s - mean) / std, a)  # noqa: E731
    assert_q(critic, q)
    assert_climbs(critic, q)


def test_target_takes_the_target_critics():
    trained, target = network(1), network(2)
    state = {"params": trained, "target_params": target, "step": np.int32(3)}
    assert_q(load_critic(state, action_dim=A), q_by_hand(trained))
    assert_q(load_critic(state, action_dim=A, target=True), q_by_hand(target))
    named = {"critic": trained, "target_critic": target}
    assert_q(load_critic(named, action_dim=A), q_by_hand(trained))
    assert_q(load_critic(named, action_dim=A, target=True), q_by_hand(target))
    with pytest.raises(ValueError, match="no target"):
        load_critic(trained, action_dim=A, target=True)


@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("kind", ["npz", "npz, packed", "safetensors"])
def test_files_of_named_arrays(kind, separator, tmp_path):
    tree = network(members=(E,))
    arrays = flat({"params": {"VmapCritic_0": tree}}, separator)
    path = tmp_path / f"critic.{kind[:3]}"
    if kind == "safetensors":
        save_file(arrays, path)
    else:
        with path.open("wb") as file:
            (np.savez_compressed if "packed" in kind else np.savez)(file, **arrays)
    critic = load_critic(path, action_dim=A)
    assert_q(critic, stacked_q(tree))
    assert_climbs(critic, stacked_q(tree))


def test_msgpack_of_a_list_in_cleanrl_s_order(tmp_path):
    trees = network(1), network(2)
    listed = {"0": ACTOR, "1": {"params": trees[0]}, "2": {"params": trees[1]}}
    (tmp_path / "td3.cleanrl_model").write_bytes(to_bytes(listed))
    critic = load_critic(tmp_path / "td3.cleanrl_model")
    assert critic.action_dim == A
    assert_q(critic, both(*map(q_by_hand, trees)))
    assert_climbs(critic, both(*map(q_by_hand, trees)))


def test_msgpack_in_half_precision(tmp_path):
    tree = {
        name: {kind: x.astype(np.float16).astype(np.float32) for kind, x in layer.items()}
        for name, layer in network().items()
    }
    (tmp_path / "critic.msgpack").write_bytes(to_bytes(tree, "float16"))
    assert_q(load_critic(tmp_path / "critic.msgpack", action_dim=A), q_by_hand(tree))


def with_layer(name, **arrays):
    return lambda tree: tree | {name: {kind: np.ones(shape, np.float32) for kind, shape in arrays.items()}}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (with_layer("BatchNorm_0", scale=(H,), bias=(H,)), "BatchNorm_0: expected a Dense layer"),
        (with_layer("Conv_0", kernel=(3, 3, 1, 8), bias=(8,)), "Conv_0: expected a Dense layer"),
        (with_layer("Embed_0", embedding=(3, 8)), "Embed_0: expected a Dense layer"),
        (with_layer("RMSNorm_0", scale=(H,)), "RMSNorm_0: expected a Dense layer"),
        (with_layer("LayerNorm_0", scale=(H,), bias=(H,)), "a LayerNorm for each of 2 hidden layers"),
        (with_layer("Dense_1", kernel=(H, H + 1), bias=(H + 1,)), "as many as the layer before gives"),
        (with_layer("Dense_2", kernel=(H, 2), bias=(2,)), "gives 1 number, got 2"),
        (with_layer("Dense_1", kernel=(H, H), bias=(H + 1,)), "bias"),
        (with_layer("Dense_1", kernel=(E, H, H), bias=(E, H)), "all with an axis before or none"),
        (with_layer("fc3", kernel=(1, 1), bias=(1,)), "of one name with numbers"),
        (lambda tree: {"params": tree, "batch_stats": {"BatchNorm_0": {"mean": np.ones(3)}}}, "BatchNorm"),
        (lambda tree: {"critic": tree, "encoder": network(5)}, "'encoder' too"),
        (lambda tree: {"actor": tree, "vf": tree}, "expected a critic, got the names"),
        (lambda tree: tree | {"gru": {"hr": {"kernel": np.ones((H, H))}}}, "expected layers, or one body"),
        (
            lambda tree: {"critic": {"q1": tree, "scale": tree}, "actor": ACTOR},
            "expected layers or critics alone",
        ),
    ],
)
def test_what_is_no_mlp_is_refused(spoil, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        load_critic(spoil(network()), action_dim=A)


@pytest.mark.parametrize("name", ["vf", "value", "value_params", "ValueCritic_0", "actor", "policy", "pi"])
def test_a_network_of_states_is_not_read_as_a_critic(name):
    with pytest.raises(ValueError, match=f"expected a critic, got '{name}' alone"):
        load_critic({name: {"params": network()}}, action_dim=A)


def test_the_number_of_actions_is_asked_for():
    with pytest.raises(ValueError, match="action_dim="):
        load_critic(network())


def test_an_actor_that_could_be_of_two_environments_does_not_decide():
    """Hidden layers narrower than S + A: their width may be taken for S."""
    actor = network(inputs=6, outputs=2) | {"Dense_9": dense(np.random.default_rng(0), 7, 1)}
    critic = network()
    with pytest.raises(ValueError, match="action_dim="):
        load_critic({"critic": critic, "actor": actor})
    assert_q(load_critic({"critic": critic, "actor": actor}, action_dim=A), q_by_hand(critic))


def npz(path, **arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def test_an_npz_with_objects_is_not_unpickled(tmp_path):
    path = npz(tmp_path / "c.npz", **{"Dense_0/kernel": np.array([print], dtype=object)})
    with pytest.raises(ValueError, match="expected an array of numbers, got object"):
        load_critic(path, action_dim=A)


def test_an_array_that_promises_more_than_there_is(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
        header += b" " * (118 - len(header) - 1) + b"\n"
        archive.writestr("Dense_0/kernel.npy", b"\x93NUMPY\x01\x00\x76\x00" + header + b"1234")
    with pytest.raises(ValueError, match="its data are 4 bytes"):
        load_critic(tmp_path / "c.npz", action_dim=A)


def test_an_array_in_the_way_of_others(tmp_path):
    path = npz(tmp_path / "c.npz", **{"a": np.ones(3), "a/kernel": np.ones((3, 3))})
    with pytest.raises(ValueError, match="is an array and holds others too"):
        load_critic(path, action_dim=A)


@pytest.mark.parametrize(
    "content",
    [
        lambda p: p({"kernel": ext(1, p(([1 << 40], "float32", b"1234")))}),
        lambda p: p({"kernel": ext(1, p(([2, -2], "float32", b"1234")))}),
        lambda p: p({"kernel": ext(1, p(([1], "object", b"12345678")))}),
        lambda p: p({"kernel": ext(1, p(([1], "no dtype", b"12345678")))}),
        lambda p: p({"kernel": ext(1, p({"shape": 3}))}),
        lambda p: p({"kernel": ext(77, b"1234")}),
        lambda p: p({"kernel": 1}) + b"left over",
        lambda p: p({"kernel": 1})[:-1],
        lambda p: b"\x81\xa6kernel" * 3000,
        lambda p: b"\xdf\xff\xff\xff\xff\xa6kernel",
    ],
)
def test_hostile_msgpack_is_refused(content, tmp_path):
    msgpack = pytest.importorskip("msgpack")
    (tmp_path / "c.msgpack").write_bytes(content(lambda x: msgpack.packb(x, use_bin_type=True)))
    with pytest.raises(ValueError, match="not a readable msgpack file of Flax"):
        load_critic(tmp_path / "c.msgpack", action_dim=A)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "msgpack"])
def test_mutated_files_are_read_or_refused_with_a_sentence(kind, tmp_path):
    tree = {"critic_1": network(1), "critic_2": network(2), "actor": ACTOR["params"]}
    path = tmp_path / f"c.{kind}"
    if kind == "msgpack":
        path.write_bytes(to_bytes(tree))
    elif kind == "npz":
        npz(path, **flat(tree, "/"))
    else:
        save_file(flat(tree, "."), path)
    content = path.read_bytes()
    generator, refused = np.random.default_rng(0), 0
    for case in range(120):
        spoiled = bytearray(content)
        at = generator.integers(0, len(content), 4) if case % 3 else generator.integers(0, 400, 2)
        for i in at:
            spoiled[i] = generator.integers(256)
        path.write_bytes(bytes(spoiled) if case % 4 else content[: generator.integers(1, len(content))])
        try:
            load_critic(path, action_dim=A)
        except ValueError as error:
            refused += 1
            assert str(error)
    assert refused >= 30  # all that were cut short


def test_a_header_of_safetensors_that_is_no_dict_is_not_taken(tmp_path):
    header = json.dumps(["kernel"]).encode()
    (tmp_path / "c.safetensors").write_bytes(len(header).to_bytes(8, "little") + b"{" + header)
    with pytest.raises(ValueError, match="not a critic that can be read here"):
        load_critic(tmp_path / "c.safetensors")


class TestAgainstFlax:
    """With the library itself."""

    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("flax")

    def critic(self, place=None, members=None):
        import flax.linen as nn
        import jax.numpy as jnp

        class Critic(nn.Module):
            @nn.compact
            def __call__(self, states, actions):
                x = jnp.concatenate([states, actions], -1)
                for _ in range(2):
                    x = nn.Dense(H)(x)
                    x = nn.LayerNorm()(x) if place == "before" else x
                    x = nn.relu(x)
                    x = nn.LayerNorm()(x) if place == "after" else x
                return nn.Dense(1)(x).squeeze(-1)

        if members is None:
            return Critic()

        class Ensemble(nn.Module):
            @nn.compact
            def __call__(self, states, actions):
                vmapped = nn.vmap(
                    Critic,
                    in_axes=None,
                    out_axes=0,
                    variable_axes={"params": 0},
                    split_rngs={"params": True},
                    axis_size=members,
                )
                return vmapped()(states, actions)

        return Ensemble()

    def variables(self, module, seed=0):
        """With numbers of their own in every array, biases and scales too."""
        import jax
        import jax.numpy as jnp

        made = module.init(jax.random.PRNGKey(seed), jnp.zeros((1, S)), jnp.zeros((1, A)))
        generator = np.random.default_rng(seed)
        return jax.tree.map(lambda x: x + 0.3 * generator.normal(size=x.shape).astype(np.float32), made)

    def q(self, module, variables):
        """Differentiable for PyTorch by jax.vjp."""
        import jax

        values = jax.jit(lambda s, a: module.apply(variables, s, a).reshape(-1, len(s)))
        pull = jax.jit(lambda s, a, grad: jax.vjp(values, s, a)[1](grad))

        class Q(torch.autograd.Function):
            @staticmethod
            def forward(ctx, states, actions):
                ctx.inputs = states.numpy(), actions.detach().numpy()
                return torch.tensor(np.asarray(values(*ctx.inputs)))

            @staticmethod
            def backward(ctx, grad):
                return tuple(torch.tensor(np.asarray(x)) for x in pull(*ctx.inputs, grad.numpy()))

        return Q.apply

    @pytest.mark.parametrize("place", [None, "before", "after"])
    @pytest.mark.parametrize("members", [None, 3])
    def test_linen(self, place, members, tmp_path):
        from flax.core import freeze
        from flax.serialization import to_bytes

        module = self.critic(place, members)
        variables = self.variables(module)
        q = self.q(module, variables)
        (tmp_path / "critic.msgpack").write_bytes(to_bytes(variables))
        for source in (variables, freeze(variables), tmp_path / "critic.msgpack"):
            critic = load_critic(source, action_dim=A, norm=place)
            assert len(critic.members) == (members or 1)
            assert_q(critic, q)
        assert_climbs(critic, q)

    def test_a_train_state_and_its_target(self, tmp_path):
        import optax
        from flax.serialization import to_bytes
        from flax.training.train_state import TrainState

        class WithTarget(TrainState):
            target_params: dict

        module = self.critic()
        trained, target = self.variables(module, 0), self.variables(module, 1)
        state = WithTarget.create(
            apply_fn=module.apply, params=trained, target_params=target, tx=optax.adam(1e-3)
        )
        (tmp_path / "state.msgpack").write_bytes(to_bytes(state))
        for source in (state, tmp_path / "state.msgpack"):
            assert_q(load_critic(source, action_dim=A), self.q(module, trained))
            assert_q(load_critic(source, action_dim=A, target=True), self.q(module, target))

    def test_cleanrl_s_own_way_of_saving(self, tmp_path):
        import flax.linen as nn
        import jax
        import jax.numpy as jnp
        from flax.serialization import to_bytes

        class Actor(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.relu(nn.Dense(H)(x))
                return nn.tanh(nn.Dense(A)(nn.relu(nn.Dense(H)(x))))

        module = self.critic()
        actor = Actor().init(jax.random.PRNGKey(2), jnp.zeros((1, S)))
        first, second = self.variables(module, 0), self.variables(module, 1)
        (tmp_path / "td3.cleanrl_model").write_bytes(to_bytes([actor, first, second]))
        critic = load_critic(tmp_path / "td3.cleanrl_model")
        assert critic.action_dim == A
        q = both(self.q(module, first), self.q(module, second))
        assert_q(critic, q)
        assert_climbs(critic, q)

    @pytest.mark.parametrize("norm", [False, True])
    def test_nnx(self, norm):
        import jax.numpy as jnp
        from flax import nnx

        rngs = nnx.Rngs(0)
        hidden = [nnx.Linear(S + A, H, rngs=rngs), *([nnx.LayerNorm(H, rngs=rngs)] if norm else []), nnx.relu]
        module = nnx.Sequential(*hidden, nnx.Linear(H, 1, rngs=rngs))

        def q(states, actions):
            return np.array(module(jnp.concatenate([states.numpy(), actions.numpy()], -1))).T

        assert_q(load_critic(nnx.state(module), action_dim=A), q)
        with pytest.raises(ValueError, match=re.escape("flax.nnx.state(critic, flax.nnx.Param)")):
            load_critic(module, action_dim=A)
