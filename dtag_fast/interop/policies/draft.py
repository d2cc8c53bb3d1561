"""A draft of a key map: what names and shapes say of the tensors of a code that nothing here knows.

Shapes decide where they can: which matrix is an MLP's, which is stored as (inputs, outputs), what a head
gives. Words in the names decide between tensors of one shape. What neither tells is left open.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from dtag_fast.interop.policies.key_map import OPEN, check_plain
from dtag_fast.interop.policies.source import read_source

_BLOCK_SHARE = 0.5  # of the tensors that the most common number stands in: names may begin with another one
_WORDS = {
    "return": {"return", "returns", "rtg", "reward", "rewards"},
    "state": {"state", "states", "obs", "observation", "observations"},
    "action": {"action", "actions", "act", "mu", "mean"},
}
_TIME = {"time", "timestep", "timesteps", "step", "steps", "t"}
_STD = {"std", "logstd", "sigma", "logsigma"}
_LAST = {"f", "final", "last", "out", "output"}
_MASK = {"mask", "masked", "tril", "causal"}
_OF_TEXT = {"wte"}  # GPT-2's table of words, which no policy looks up
# Our name <- words, in this order: a name may hold "proj" beside "q".
_ATTENTION = {
    "q": {"q", "query", "queries"},
    "k": {"k", "key", "keys"},
    "v": {"v", "value", "values"},
    "out": {"out", "o", "proj", "project", "output"},
}
_OF_ATTENTION, _OF_MLP = {"attn", "attention", "att"}, {"mlp", "ff", "ffn", "feed"}


class Draft(NamedTuple):
    """A key map as `key_file` describes it, with `OPEN` where nothing could be told."""

    described: dict[str, Any]
    open: list[str]  # its names that the caller has to decide
    guessed: list[str]  # square matrices, of which no shape tells whether they are transposed


class _Part(NamedTuple):
    """A weight with its bias, or a tensor by itself."""

    stem: str  # name without "weight" or "bias"; with {n} in a block
    weight: Tensor | None
    bias: Tensor | None
    other: Tensor | None  # what is neither

    @property
    def words(self) -> set[str]:
        return {w for w in re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", self.stem).lower()) if w}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return () if self.weight is None else tuple(self.weight.shape)

    @property
    def transposed(self) -> bool:
        """Whether a matrix that is not square is stored as (inputs, outputs): its bias is not as its rows."""
        return self.bias is not None and self.shape[:1] != tuple(self.bias.shape)


def draft_keys(source: Any) -> Draft:
    """A key map for weights under names that are not known here, to be checked and completed by hand.

    Args:
        source: as for `read_policy`; of several state dicts in it that with the most tensors.
    Raises:
        FileNotFoundError, TypeError, ValueError: as `read_policy`, of the source; no blocks are found.
    """
    read = read_source(source)
    tensors = max(read.candidates, key=len)
    for name, tensor in tensors.items():
        check_plain(name, tensor)
    prefix = _blocks(tensors)
    if prefix is None:
        raise ValueError(f"{read.shown}: expected a transformer's blocks, names with a number, found none")
    inside, outside = _parts(tensors, prefix)
    d_model = next((p.shape[0] for p in inside if len(p.shape) == 1), None)
    if d_model is None:
        raise ValueError(f"{read.shown}: expected a LayerNorm in the blocks {prefix}*, found none")
    return _Names(inside, outside, d_model).draft()


def _blocks(tensors: Collection[str]) -> str | None:
    """What stands before a block's number: the longest of the texts that stand before numbers most often."""
    before = Counter(name[: m.start()] for name in tensors for m in re.finditer(r"\d+(?=\.)", name))
    if not before:
        return None
    most = max(before.values())
    return max((text for text, n in before.items() if n >= _BLOCK_SHARE * most), key=len)


def _parts(tensors: Mapping[str, Tensor], prefix: str) -> tuple[list[_Part], list[_Part]]:
    """Those of one block and those outside of the blocks."""
    inside: dict[str, dict[str, Tensor]] = {}
    outside: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        stem, kind = re.fullmatch(r"(.*?)(weight|bias|)", name, re.DOTALL).groups()
        if tensor.ndim not in (1, 2) or not tensor.is_floating_point():
            stem, kind = name, ""  # a causal mask may be called bias
        block = re.match(re.escape(prefix) + r"\d+(?=\.)", stem)
        if block:
            inside.setdefault(f"{prefix}{{n}}{stem[block.end() :]}", {}).setdefault(kind, tensor)
        else:
            outside.setdefault(stem, {})[kind] = tensor
    return _listed(inside), _listed(outside)


def _listed(found: Mapping[str, Mapping[str, Tensor]]) -> list[_Part]:
    return [
        _Part(stem, kinds.get("weight"), kinds.get("bias"), kinds.get("")) for stem, kinds in found.items()
    ]


@dataclass
class _Names:
    """Our names for the parts of one network of width `d_model`."""

    inside: list[_Part]
    outside: list[_Part]
    d_model: int

    def draft(self) -> Draft:
        block = [(part, self._in_block(part)) for part in self.inside]
        found = block + [(part, self._edge(part)) for part in self.outside]
        ours = {name for _, name in found}
        algorithm = "dt"
        if "action_log_std" in ours:
            algorithm = "reinformer"
        elif "log_std_head" in ours:
            algorithm = "odt"
        unused = set() if algorithm == "reinformer" else {"return_head"}
        # As published, Online DT keeps a table of timesteps that it does not add.
        unused |= {"embed_timestep"} if algorithm == "odt" else set()
        settings: dict[str, Any] = {"context_len": steps} if (steps := self._steps()) else {}
        if algorithm == "dt":
            settings["norm"] = "pre" if "transformer.final_norm" in ours else "post"
        keys: dict[str, str | None] = {}
        for part, name in found:
            keys |= self._rules(part, None if name in unused else name)
        square = [p.stem for p, name in block if name and self._is_square(p) and self._turned()]
        described = {"algorithm": algorithm, "settings": settings, "keys": keys}
        return Draft(described, [stem for stem, name in keys.items() if name == OPEN], square)

    def _rules(self, part: _Part, ours: str | None) -> dict[str, str | None]:
        """Of one part, as `KeyMap` takes them."""
        if part.other is not None and part.weight is None and part.bias is None:
            return {part.stem: ours}
        if ours in (None, OPEN):
            both = part.weight is not None and part.bias is not None
            kinds = ["{p}"] if both else ["weight" if part.weight is not None else "bias"]
            return {part.stem + kind: ours for kind in kinds}
        turned = len(part.shape) == 2 and (self._turned() if self._is_square(part) else part.transposed)
        if part.weight is not None and part.bias is not None and not turned:
            return {f"{part.stem}{{p}}": f"{ours}.{{p}}"}
        rules: dict[str, str | None] = {}
        if part.weight is not None:
            rules[f"{part.stem}weight"] = f"{ours}.weight" + (".T" if turned else "")
        if part.bias is not None:
            rules[f"{part.stem}bias"] = f"{ours}.bias"
        return rules

    def _is_square(self, part: _Part) -> bool:
        return part.shape == (self.d_model, self.d_model)

    def _turned(self) -> bool:
        """Whether the blocks' matrices are transposed, by those that are not square."""
        return any(p.transposed for p in self.inside if len(p.shape) == 2 and not self._is_square(p))

    def _steps(self) -> int | None:
        """K, of a causal mask over three tokens a step."""
        for part in self.inside:
            size = part.other.shape[-1] if part.other is not None and part.other.ndim >= 2 else 0
            if part.words & _MASK and size and size % 3 == 0:
                return size // 3
        return None

    def _in_block(self, part: _Part) -> str | None:
        """Our name of a part of the blocks, without weight or bias."""
        name = self._of_block(part)
        return name if name in (None, OPEN) else f"transformer.blocks.{{n}}.{name}"

    def _of_block(self, part: _Part) -> str | None:
        d = self.d_model
        if self._is_no_parameter(part):
            return None
        if part.shape == (d,):
            return self._norm(part)
        if sorted(part.shape) == [d, 3 * d] and not part.words & _OF_MLP:
            return "attention.qkv"
        if self._is_square(part):
            if part.words & _OF_MLP:
                return OPEN
            return next((f"attention.{ours}" for ours, w in _ATTENTION.items() if w & part.words), OPEN)
        if len(part.shape) == 2 and d in part.shape:
            outputs = part.shape[0] if part.bias is None else len(part.bias)
            return "contract" if outputs == d else "expand"
        return OPEN

    def _norm(self, part: _Part) -> str:
        """norm_1 or norm_2: by the numbers in their names, else by what they stand before or after."""
        norms = sorted(p.stem for p in self.inside if p.shape == (self.d_model,))
        if len(norms) != 2:
            return OPEN
        first, second = (re.findall(r"\d+", stem) for stem in norms)
        if first != second:
            return "norm_1" if part.stem == norms[0] else "norm_2"
        if part.words & _OF_ATTENTION:
            return "norm_1"
        return "norm_2" if part.words & _OF_MLP else OPEN

    def _edge(self, part: _Part) -> str | None:
        """Our name of a part outside of the blocks, without weight or bias."""
        if part.other is not None and part.words & _STD and part.other.ndim == 1:
            return "action_log_std"
        if self._is_no_parameter(part):
            return None
        if part.shape == (self.d_model,):
            norms = [p for p in self.outside if p.shape == part.shape]
            return "transformer.final_norm" if part.words & _LAST and len(norms) > 1 else "embed_norm"
        if len(part.shape) != 2 or self.d_model not in part.shape or self._is_square(part):
            return OPEN
        if part.bias is None and part.words & _OF_TEXT:
            return None
        if part.bias is None:
            return "embed_timestep" if part.words & _TIME and part.shape[1] == self.d_model else OPEN
        if part.words & _STD:
            return "log_std_head"
        kind = next((kind for kind, words in _WORDS.items() if words & part.words), None)
        if kind is None:
            return OPEN
        if len(part.bias) == self.d_model:
            return f"embed_{kind}"
        return None if kind == "state" else f"{kind}_head"  # no action depends on a predicted state

    def _is_no_parameter(self, part: _Part) -> bool:
        """Masks and constants that a state dict holds beside the weights."""
        other = part.other
        return other is not None and (other.ndim != 1 or not other.is_floating_point())
