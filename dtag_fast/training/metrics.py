"""Metrics of a run: one JSON record per line, and the same as CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtag_fast.algorithms import parallel
from dtag_fast.training.files import write_text


class MetricsLog:
    """metrics.jsonl and metrics.csv of a run folder.

    Opening an existing log drops what lies after `up_to_step`, and a line that a killed process left
    half-written, so that the log of a resumed run reads as if it had never stopped.

    Args:
        run: run folder. up_to_step: step of the checkpoint from which training goes on.
    """

    def __init__(self, run: Path, up_to_step: int = 0):
        self._jsonl, self._csv = run / "metrics.jsonl", run / "metrics.csv"
        self.records: list[dict[str, Any]] = []
        if self._jsonl.exists():
            for line in self._jsonl.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    break  # only the last line can be incomplete
                if record["step"] > up_to_step:
                    break
                self.records.append(record)
        write_text(self._jsonl, "".join(json.dumps(record) + "\n" for record in self.records))
        self._rewrite_csv()

    def append(self, record: dict[str, Any]) -> None:
        """Add one record: a "step", and numbers under names like "train/loss"."""
        self.records.append(record)
        with open(self._jsonl, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if record.keys() <= set(self._columns):
            with open(self._csv, "a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(record)
        else:
            self._rewrite_csv()

    def has(self, step: int, prefix: str) -> bool:
        """Whether a record of this step holds a metric whose name starts with prefix."""
        return any(r["step"] == step and any(k.startswith(prefix) for k in r) for r in self.records)

    def _rewrite_csv(self) -> None:
        self._columns = list(dict.fromkeys(key for record in self.records for key in record))
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        write_text(self._csv, text.getvalue())


class Diverged(FloatingPointError):
    """A metric that is not finite.

    Attributes:
        name, value: of the metric. first, last: among the updates of the window, the ones where it began:
            one update, or those of one CUDA graph.
    """

    def __init__(self, name: str, value: float, first: int, last: int):
        super().__init__(
            f"{name} became {value}: training diverged; lower the learning rate or look at the data"
        )
        self.name, self.value, self.first, self.last = name, value, first, last


class WindowMeans:
    """Means of metrics over the updates since the last `reset`, summed without waiting for the device.

    Metrics are 0-dim, or (N,) of N seeds: `of_seed` then has the means of one.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._first_bad: Tensor | None = None  # number of the first `add` with a value that is not finite
        self._counts: list[int] = []  # updates after each `add`
        self.count = self._restored = 0  # updates in all, and those of an earlier process

    def add(self, metrics: dict[str, Tensor], count: int = 1) -> None:
        """Add the tensors of an update, or their sums over `count` updates; always the same names."""
        values = torch.stack([value.double() for value in metrics.values()])
        self._names = list(metrics)
        # sums that were read from a checkpoint lie on the host
        self._sums = values if self._sums is None else self._sums.to(values.device) + values
        self.count += count
        self._counts.append(self.count)
        never = torch.iinfo(torch.int64).max
        bad = torch.where(values.isfinite().all(dim=0), never, len(self._counts) - 1)
        self._first_bad = bad if self._first_bad is None else torch.minimum(self._first_bad, bad)

    def means(self) -> dict[str, float]:
        """Over all processes that train together; waits for the device, and for them.

        Raises:
            Diverged: one of them is NaN or infinite.
        """
        if self._sums is None:
            return {}
        self._sums = parallel.mean_over_processes(self._sums)  # once more changes nothing
        means = dict(zip(self._names, (self._sums / self.count).tolist(), strict=True))
        for name, value in means.items():
            if value - value != 0:
                # finite values whose sum is not are as good as infinite: the last update is named then
                call = min(len(self._counts) - 1, *parallel.gather(int(self._first_bad)))
                before = self._counts[call - 1] if call else self._restored
                raise Diverged(name, value, before + 1, self._counts[call])
        return means

    @classmethod
    def together(cls, windows: Sequence[WindowMeans]) -> WindowMeans:
        """Those of N seeds as one; all have counted as many updates.

        Raises:
            ValueError: they have not.
        """
        if len(counts := {window.count for window in windows}) > 1:
            raise ValueError(
                f"resume: expected the records of all seeds at the same place, {sorted(counts)} updates are "
                "not recorded yet; go on with each seed alone"
            )
        first, stack = windows[0], cls()
        stack._names, stack.count, stack._restored = first._names, first.count, first._restored
        if first._sums is not None:
            stack._sums = torch.stack([window._sums for window in windows], dim=1)
        return stack

    def of_seed(self, i: int) -> WindowMeans:
        """The window of seed i, as it would be alone."""
        part = WindowMeans()
        part._names, part._counts, part.count = self._names, self._counts, self.count
        part._restored = self._restored
        if self._sums is not None:
            part._sums = self._sums[:, i]
        if self._first_bad is not None:
            part._first_bad = self._first_bad[i]
        return part

    def state_dict(self) -> dict[str, Any]:
        return {"names": self._names, "sums": self._sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._names, self._sums, self.count = state["names"], state["sums"], state["count"]
        self._restored = self.count
