"""`read_policy`: whose Decision Transformer it is, and the same network here."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from dtag_fast.interop.loading import format_of
from dtag_fast.interop.policies.assembly import assemble
from dtag_fast.interop.policies.key_file import names_of, read_with_key_file
from dtag_fast.interop.policies.layouts import Said, Weights
from dtag_fast.interop.policies.source import PolicySource, read_source
from dtag_fast.models.foreign_critic import Numbers
from dtag_fast.models.sequence import SequenceModel

LAYOUTS = ("gpt2", "min_decision_transformer", "corl")


class ForeignPolicy(NamedTuple):
    """A policy of another code as a model of ours."""

    model: SequenceModel  # eval mode, on the CPU
    algorithm: str  # dt, reinformer or odt
    source: str  # whose code it is from, in words
    notes: list[str]  # what was assumed or left out, a sentence each
    scales_states: bool  # the source or the caller told what states were standardised by


def read_policy(
    source: Any,
    *,
    context_len: int | None = None,
    n_head: int | None = None,
    activation: str | None = None,
    max_action: float | None = None,
    return_scale: float = 1.0,
    state_mean: Numbers | float | None = None,
    state_std: Numbers | float | None = None,
    keys: str | os.PathLike | None = None,
) -> ForeignPolicy:
    """A Decision Transformer of another code, as one of our models that computes the same.

    Nothing in a file is executed: weights and plain values are read, all else is refused. The other code
    need not be installed.

    Args:
        source: a folder of Hugging Face's `save_pretrained`; a file of `torch.save` or safetensors with the
            state dict of kzl/decision-transformer, min-decision-transformer or CORL's dt.py, also inside of
            dicts; such a state dict; or the module itself.
        context_len: K, steps to look back; n_head: of its attention; activation: of its MLPs, relu or gelu;
            max_action: CORL's, actions are max_action * tanh. Where the source tells one it must be the same;
            where neither does, it is that of the published code and a note says so.
        return_scale: what returns-to-go were divided by in training.
        state_mean, state_std: (S,) what states were standardised by, or a number for all dimensions; they
            replace those that the source holds.
        keys: a key map for other names, see `key_file`.
    Raises:
        FileNotFoundError: there is no such file. TypeError: an object of another kind.
        ValueError: nothing here knows these names, or ours can not compute exactly the same.
    """
    if (state_mean is None) != (state_std is None):
        raise ValueError("state_mean, state_std: expected both or none")
    try:
        read = read_source(source)
    except ValueError:
        _refuse_critics(source)
        raise
    keys = None if keys is None else Path(keys)
    said = Said(
        context_len=context_len, n_head=n_head, activation=activation, max_action=max_action, keys=keys
    )
    if state_mean is None:
        state_mean, state_std = read.state_mean, read.state_std
        if (state_mean is None) != (state_std is None):
            raise ValueError(f"{read.shown}: it holds one of state_mean and state_std; give both")
    weights = _weights(read, said)
    scale = {"return_scale": float(return_scale)}
    try:
        model = assemble(
            weights.algorithm,
            weights.tensors,
            weights.settings | scale,
            state_mean=state_mean,
            state_std=state_std,
            max_action=weights.max_action,
        )
    except ValueError as error:
        raise ValueError(f"{read.shown}: {error}") from error
    return ForeignPolicy(
        model, weights.algorithm, weights.source, weights.notes, scales_states=state_mean is not None
    )


def _refuse_critics(source: Any) -> None:
    """Say so where a file that is no policy here is a critic."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        return
    found = format_of(Path(source))
    if found is not None:
        raise ValueError(
            f"{source}: a file of {found}, of which the critic is read and not the policy: "
            "`dtag convert-critic`, interop.load_critic"
        )


def _weights(source: PolicySource, said: Said) -> Weights:
    """The policy by the first layout that knows names of a candidate."""
    if said.keys is not None:
        return read_with_key_file(said.keys, source, said)
    layouts = [import_module(f"dtag_fast.interop.policies.{name}") for name in LAYOUTS]
    for tensors in source.candidates:
        for layout in layouts:
            if not layout.matches(tensors):
                continue
            try:
                weights = layout.read(tensors, source, said)
            except ValueError as error:
                raise ValueError(f"{source.shown}: {error}") from error
            if weights.max_action == 1.0 and said.max_action not in (None, 1.0):
                raise ValueError(f"max_action: {weights.source} has actions in [-1, 1]; leave it out")
            return weights
    _refuse_critics(source.shown)
    known, names = "; ".join(layout.NAME for layout in layouts), names_of(source.candidates[0])
    raise ValueError(
        f"{source.shown}: not a policy that is known here; those of {known} are, and others by a key map "
        f"(keys), which `dtag convert SRC --draft-keys FILE` drafts. Its tensors: {names}"
    )
