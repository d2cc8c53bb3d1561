"""Where else the records of metrics.jsonl go: TensorBoard and Weights & Biases, both optional.

Both get what the log gets, when it gets it: nothing waits for the device on their account.
"""

from __future__ import annotations

import importlib
import secrets
from pathlib import Path
from typing import Any, Protocol

from dtag_fast.training.files import write_text

_REMEDY = 'install it with `pip install "dtag_fast[logging]"`'


class Logger(Protocol):
    """Another reader of a run's records."""

    def begin(self, run: Path, step: int, description: dict[str, Any]) -> None:
        """A process trains in this run folder from `step` on; description: the run's config.json."""

    def write(self, record: dict[str, Any]) -> None:
        """One record: a "step", and numbers under names like "train/loss"."""

    def close(self) -> None:
        """The training of this process is over."""


class TensorBoard:
    """Event files in RUN/tensorboard. What a resumed run does again is marked as replaced.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        _need("tensorboard", "--tensorboard")

    def begin(self, run: Path, step: int, description: dict[str, Any]) -> None:
        """As Logger's."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, record: dict[str, Any]) -> None:
        """As Logger's."""
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """As Logger's."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, its files in RUN/wandb, its id in RUN/wandb_id, by which it is resumed.

    What WANDB_MODE says (offline, disabled), and every other setting of wandb's own, is honoured.

    Args:
        project: name of the project.
    Raises:
        ValueError: wandb is not installed.
    """

    def __init__(self, project: str):
        _need("wandb", "--wandb")
        self.project = project

    def begin(self, run: Path, step: int, description: dict[str, Any]) -> None:
        """As Logger's."""
        import wandb

        kept = run / "wandb_id"
        if not kept.exists():
            write_text(kept, secrets.token_hex(8))
        self._run = wandb.init(
            project=self.project,
            dir=str(run),
            id=kept.read_text(),
            name=run.name,
            resume="allow",
            config=description,
        )

    def write(self, record: dict[str, Any]) -> None:
        """As Logger's."""
        self._run.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])

    def close(self) -> None:
        """As Logger's."""
        self._run.finish()


def _need(package: str, option: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{option}: {package} is not installed ({error}); {_REMEDY}") from error
