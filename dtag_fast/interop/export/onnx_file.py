"""A policy as an ONNX file: the graph, what it says about itself, and whether a runtime agrees."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dtag_fast.interop.export.acting import Acting
from dtag_fast.interop.export.onnx_operators import IR_VERSION, OPSET, OnnxOperators
from dtag_fast.interop.export.verification import Verification, verify
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.training.checkpoint import LoadedPolicy, library_versions


@dataclass(frozen=True)
class OnnxReport:
    """What was written; `verification` is None where it was not asked for."""

    path: Path
    inputs: dict[str, tuple]  # name -> sizes, "batch" first
    outputs: tuple[str, ...]
    nodes: int
    verification: Verification | None


def export_onnx(
    policy: LoadedPolicy,
    path: str | os.PathLike,
    *,
    critic: Any = None,
    setting: AGSetting | None = None,
    check: bool = True,
) -> OnnxReport:
    """Write a policy, and Action Gradient where `setting` has steps, as one ONNX graph.

    Inputs are raw and of any batch size; states are standardised, returns scaled and actions bounded inside.
    docs/interop/export.md has the inputs and outputs and how a loop feeds them.

    Args:
        policy: from `load_policy`, on the CPU. path: the file; it appears whole or not at all.
        critic, setting: as `Acting` takes them. check: run the file and compare it with this package, by
            onnxruntime where it is installed, else by the evaluator that ONNX brings along.

    Raises:
        ImportError: onnx is not installed. ValueError, TypeError: as `Acting`, or the comparison failed.
    """
    onnx = import_onnx()
    acting = Acting(policy, critic, setting or AGSetting())
    path = Path(path)
    model = onnx_model(acting)
    try:
        content = model.SerializeToString()
    except ValueError as error:  # protobuf holds 2 GiB
        raise ValueError(f"{path}: the policy is too large for one ONNX file ({error})") from None
    onnx.checker.check_model(content, full_check=True)
    verification = verify(acting, *_runtime(content)) if check else None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    inputs = {one.name: ("batch", *one.sizes) for one in acting.inputs}
    return OnnxReport(path, inputs, acting.outputs, len(model.graph.node), verification)


def onnx_model(acting: Acting) -> Any:
    """The ModelProto."""
    onnx = import_onnx()
    ops = OnnxOperators()
    inputs = {one.name: ops.input(one.name, one.kind, one.sizes) for one in acting.inputs}
    sizes = {"action": acting.policy.info.action_dim, "predicted_return": 1}
    values = zip(acting.outputs, acting.written(ops, **inputs), strict=True)
    graph = ops.graph("dtag_fast", [ops.output(value, name, [sizes[name]]) for name, value in values])
    model = onnx.helper.make_model(
        graph,
        producer_name="dtag_fast",
        producer_version=library_versions()["dtag_fast"],
        ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    values_by_name = metadata(acting)
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in values_by_name.items()})
    return model


def metadata(acting: Acting) -> dict[str, Any]:
    """What the file says about itself: plain JSON values by name."""
    info, setting = acting.policy.info, acting.setting
    names = (
        *("algorithm", "step", "seed", "env_id", "dataset_id", "observation_keys", "discrete_actions"),
        *("state_dim", "action_dim", "context_len", "state_mean", "state_std", "action_low", "action_high"),
        *("return_scale", "reward_scale", "reward_shift", "target_returns", "max_episode_steps"),
    )
    found: dict[str, Any] = {name: getattr(info, name) for name in names}
    found["model_type"] = type(acting.policy.model).__name__
    found["versions"] = library_versions()
    found["action_gradient"] = None if acting.program is None else setting.to_dict()
    return found


def import_onnx() -> Any:
    """The module, or a sentence on how to get it."""
    try:
        import onnx
    except ImportError:
        raise ImportError(
            'onnx is not installed, which writes the file; install it with pip install "dtag_fast[export]"'
        ) from None
    return onnx


def _runtime(content: bytes) -> tuple[Any, str]:
    """A function that runs the file, and its name."""
    try:
        import onnxruntime
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(onnx.load_from_string(content))
        name = f"the evaluator of onnx {onnx.__version__} (onnxruntime is not installed)"
        return lambda inputs: evaluator.run(None, inputs), name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        known = {one.name for one in session.get_inputs()}
        return session.run(None, {name: x for name, x in inputs.items() if name in known})

    return run, f"onnxruntime {onnxruntime.__version__}"
