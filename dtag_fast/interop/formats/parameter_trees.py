"""Parameter trees of Flax: nested dicts of arrays, in memory (linen's params, nnx.State) or in files.

A tree holds names and numbers and no function: what cannot be told from it (the activation, whether a
LayerNorm stands before or after it) is asked for or taken as documented. Dense kernels are (in, out);
`nn.vmap` puts an axis of members before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dtag_fast.interop.parameter_networks import Network, is_network, kernels, natural, read_network
from dtag_fast.interop.source import CriticFile, Options, class_names
from dtag_fast.interop.tree_files import is_tree_file, plain_tree, read_tree
from dtag_fast.interop.widths import q_width, state_and_action
from dtag_fast.models.foreign_critic import ForeignCritic

NAME = "parameter-trees"
WHAT = "Flax parameters in memory, or in a .npz, .safetensors or msgpack file (flax.serialization.to_bytes)"
TAKES = frozenset({"activation", "norm"})

_TRAIN_STATE = "flax.training.train_state.TrainState"
_NNX_MODULE = "flax.nnx.module.Module"
# Beside "params": what linen's variables, a TrainState or an optimizer hold and a critic does not need.
_BESIDE = {"step", "opt_state", "tx", "apply_fn", "params", "target_params", "batch_stats", "intermediates"}
_CRITIC = re.compile(
    r"(target_)?(vmap|double|twin|ensemble|continuous|soft)*_?"
    r"(critics?|qs?|qfs?|q_?networks?|qf_?networks?|q_?nets?|qf_?nets?|q_?functions?|q_?values?|stateactionvalue)"
    r"_?\d*(_target)?(_params|_state)?(_target)?",
    re.IGNORECASE,
)
_OTHER = re.compile(
    r".*(actor|policy|temperature|temp|alpha|optim|opt_state).*|pi|v|vf|values?|value_?(net|function|network)?"
    r"(_params|_state)?|valuecritic(_\d+)?|step|rngs?|log_.*|target_(v|vf|value)",
    re.IGNORECASE,
)
_ACTOR = re.compile(r".*(actor|policy).*|pi", re.IGNORECASE)


def takes_object(source: Any) -> bool:
    names = class_names(source)
    if _TRAIN_STATE in names or _NNX_MODULE in names:
        return True
    if not isinstance(source, Mapping) or isinstance(source, nn.Module):
        return False
    try:
        return bool(kernels(plain_tree(source)))
    except ValueError:
        return False


def from_object(source: Any, options: Options) -> ForeignCritic:
    names = class_names(source)
    if _NNX_MODULE in names:
        raise ValueError(
            f"{type(source).__name__}: give its parameters: flax.nnx.state(critic, flax.nnx.Param)"
        )
    if _TRAIN_STATE in names:
        held = {"params": source.params}
        if getattr(source, "target_params", None) is not None:
            held["target_params"] = source.target_params
        source = held
    return _critic(plain_tree(source), "a parameter tree", options)


def takes_file(file: CriticFile) -> bool:
    return is_tree_file(file)


def from_file(file: CriticFile, options: Options) -> ForeignCritic:
    return _critic(read_tree(file), str(file.path), options)


def _critic(tree: dict[str, Any], where: str, options: Options) -> ForeignCritic:
    tree, target = _unwrapped(tree, options.target, where)
    if _is_list(tree):
        if target:
            raise ValueError(f"{where}: a list of parameters names no target critic; leave target out")
        networks, actor = _of_list(tree, where)
    else:
        networks, actor = _of_names(tree, target, where)
    members = [member for network in networks for member in read_network(network, options)]
    width = q_width(members, where)
    states = None if actor is None else _actor_inputs(actor, width)
    state_dim, action_dim = state_and_action(width, where, options.action_dim, states)
    return ForeignCritic(members, "Flax", state_dim, action_dim, options.scaling())


def _unwrapped(tree: dict[str, Any], target: bool, where: str) -> tuple[dict[str, Any], bool]:
    """Within {"params": ...} and dicts of one entry; whether the target is still to be looked for."""
    while True:
        if "params" in tree and tree.keys() <= _BESIDE:
            if tree.get("batch_stats"):
                raise ValueError(f"{where}: it has running statistics of BatchNorm, which is not taken here")
            if target and "target_params" in tree:
                tree, target = tree["target_params"], False
            else:
                tree = tree["params"]
        elif len(tree) == 1 and not is_network(tree) and isinstance(next(iter(tree.values())), dict):
            name, inside = next(iter(tree.items()))
            if _OTHER.fullmatch(name) and not _CRITIC.fullmatch(name):
                raise ValueError(f"{where}: expected a critic, got {name!r} alone")
            target = target and not _is_target(name)
            tree = inside
        else:
            return tree, target
        if not isinstance(tree, dict):
            raise ValueError(f"{where}: expected nested dicts of arrays under params")


def _of_names(tree: dict[str, Any], target: bool, where: str) -> tuple[list[Network], dict[str, Any] | None]:
    """The critics that are named so, and the actor if there is one."""
    if is_network(tree):
        if target:
            raise ValueError(f"{where}: holds one critic and no target; leave target out")
        return [Network(where, tree)], None
    named = {name: part for name, part in tree.items() if _CRITIC.fullmatch(name)}
    strangers = [
        name
        for name, part in tree.items()
        if name not in named and not _OTHER.fullmatch(name) and _arrays(part)
    ]
    if strangers:
        raise ValueError(
            f"{where}: expected critics (critic_1, q1, Critic_0, ...), an actor, a value function or their "
            f"states, got {strangers[0]!r} too; give the critic's part of the tree alone"
        )
    chosen = [name for name in named if _is_target(name) == target]
    if not chosen:
        what = "target critic" if target else "critic"
        raise ValueError(f"{where}: expected a {what}, got the names {sorted(tree)[:8]}")
    actors = [tree[name] for name in tree if _ACTOR.fullmatch(name) and not _is_target(name)]
    networks = []
    for name in sorted(chosen, key=natural):
        networks += _networks(tree[name], f"{where}, {name}")
    return networks, actors[0] if actors else None


def _networks(tree: Any, where: str) -> list[Network]:
    """One network, or those of a dict that holds nothing but critics."""
    if not isinstance(tree, dict):
        raise ValueError(f"{where}: expected the layers of a critic, got one array")
    tree, _ = _unwrapped(tree, False, where)
    if is_network(tree):
        return [Network(where, tree)]
    odd = [name for name in tree if not _CRITIC.fullmatch(name) or _is_target(name)]
    if odd or not tree:
        raise ValueError(f"{where}: expected layers or critics alone, got {odd[:4]}")
    return [
        network for name in sorted(tree, key=natural) for network in _networks(tree[name], f"{where}, {name}")
    ]


def _is_list(tree: dict[str, Any]) -> bool:
    """Several trees that were a list: CleanRL's [actor, qf1, qf2]."""
    return len(tree) > 1 and all(name.isdigit() for name in tree) and not is_network(tree)


def _of_list(tree: dict[str, Any], where: str) -> tuple[list[Network], dict[str, Any]]:
    """CleanRL's order: the actor, then the Q networks."""
    actor, *critics = [tree[name] for name in sorted(tree, key=natural)]
    networks = [net for i, part in enumerate(critics, 1) for net in _networks(part, f"{where}, entry {i}")]
    return networks, actor


def _actor_inputs(actor: Any, width: int) -> int | None:
    """S, if only one number can be it: the inputs of a layer, where another gives A = width - S or 2 A."""
    shapes = [tuple(kernel.shape) for kernel in kernels(actor) if kernel.ndim == 2]
    outputs = {out for _, out in shapes}
    found = {n for n, _ in shapes if n < width and {width - n, 2 * (width - n)} & outputs}
    return found.pop() if len(found) == 1 else None


def _is_target(name: str) -> bool:
    return "target" in name.lower()


def _arrays(part: Any) -> bool:
    if isinstance(part, dict):
        return any(_arrays(value) for value in part.values())
    return isinstance(part, Tensor)
