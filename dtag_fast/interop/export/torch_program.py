"""A policy as a program of torch.export: one file that PyTorch runs without this package."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from dtag_fast.interop.export.acting import Acting, ActingModule
from dtag_fast.interop.export.onnx_file import metadata
from dtag_fast.interop.export.verification import random_inputs
from dtag_fast.rollout.settings import AGSetting
from dtag_fast.training.checkpoint import LoadedPolicy


def export_program(
    policy: LoadedPolicy,
    path: str | os.PathLike | None = None,
    *,
    critic: Any = None,
    setting: AGSetting | None = None,
) -> torch.export.ExportedProgram:
    """torch.export of a policy on raw inputs of any batch size, and of Action Gradient if steps are set.

    Args:
        policy, critic, setting: as `export_onnx` takes them.
        path: write it there too (a .pt2 file for torch.export.load), with the metadata of an ONNX file under
            the name "dtag_fast.json" among its extra files. It appears whole or not at all.

    Raises:
        ValueError, TypeError: as `Acting`.
    """
    acting = Acting(policy, critic, setting or AGSetting())
    module = ActingModule(acting)
    example = tuple(torch.from_numpy(x) for x in random_inputs(acting, 3, seed=0).values())
    batch = torch.export.Dim("batch")
    # The parameter is *inputs: its shapes are those of a tuple.
    shapes = (tuple({0: batch} for _ in example),)
    with torch.no_grad():
        program = torch.export.export(module, example, dynamic_shapes=shapes)
    if path is not None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.pt2")
        try:
            torch.export.save(
                program, temporary, extra_files={"dtag_fast.json": json.dumps(metadata(acting))}
            )
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return program
