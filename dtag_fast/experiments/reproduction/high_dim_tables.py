"""Tables and claims of latency and gain over action dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dtag_fast.experiments.claims import Claim
from dtag_fast.experiments.reproduction.machine import name_of
from dtag_fast.experiments.reproduction.scores import NONE
from dtag_fast.experiments.tables import Table

SHOWN_STEPS, SHOWN_LR = 10, 0.1  # of Action Gradient, in the short table, the figure and the claims
LINEAR_UP_TO = 64


@dataclass(frozen=True)
class Latency:
    """What a RefinementLatency wrote. machine: of `machine`. rows: see its `do`."""

    device: str
    steps: int
    machine: dict[str, Any]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Gain:
    """What a DimensionGain wrote, see its `measure`."""

    action_dim: int
    activation: str
    seed: int
    imitator_reward: float
    imitator_distance: float
    critic_error: float
    rows: list[dict[str, Any]]


def latency(found: Sequence[Latency]) -> Table:
    """A row for every device, S, A and B."""
    rows = [
        (
            one.device,
            row["backend"],
            f"{row['state_dim']}",
            f"{row['action_dim']}",
            f"{row['batch']}",
            f"{1e6 * row['refiner_seconds']:.0f}",
            f"{1e6 * row['eager_seconds']:.0f}",
            f"{row['eager_seconds'] / row['refiner_seconds']:.1f}",
        )
        for one in found
        for row in one.rows
    ]
    machines = "; ".join(
        f"{one.device}: {name_of(one.machine)}, PyTorch {one.machine['torch']}, "
        f"{one.machine['load']:g} processes at work in the minute before"
        for one in found
    )
    note = (
        f"Microseconds of a call, n={found[0].steps}, twin critic, one thread; medians of rounds in which "
        f"all take turns; on a CPU of the process's own time. {machines}."
    )
    header = ("device", "backend", "S", "A", "B", "Refiner", "eager loop", "times as fast")
    return Table(header, rows, text_columns=2, note=note)


def latency_claims(found: Sequence[Latency], state_dim: int) -> list[Claim]:
    """Less than linear growth in A, and less time than the eager loop.

    Args:
        state_dim: of the critics that were timed at every A.
    """
    growth, faster = [], []
    for one in found:
        faster += [row["eager_seconds"] / row["refiner_seconds"] for row in one.rows]
        for batch in dict.fromkeys(row["batch"] for row in one.rows):
            line = {
                row["action_dim"]: row["refiner_seconds"]
                for row in one.rows
                if (row["state_dim"], row["batch"]) == (state_dim, batch)
            }
            growth += [line[2 * a] / line[a] for a in line if 2 * a in line and 2 * a <= LINEAR_UP_TO]
    return [
        Claim(
            f"twice the dimensions take less than twice the time, up to {LINEAR_UP_TO}",
            max(growth) < 2,
            f"{max(growth):.2f} times at most",
        ),
        Claim(
            "the refiner is faster than the eager loop at every number of dimensions",
            min(faster) > 1,
            f"{min(faster):.1f} to {max(faster):.1f} times as fast",
        ),
    ]


def gain(found: Sequence[Gain]) -> Table:
    """A row for every activation and A: the share of the squared distance that is closed in one setting."""
    rows = []
    for activation, size in _cells(found):
        mine = [one for one in found if (one.activation, one.action_dim) == (activation, size)]
        rewards = [_setting(one, "trained", True)["reward"] for one in mine]
        rows.append(
            (
                activation,
                f"{size}",
                _spread([one.critic_error for one in mine]),
                f"{fmean(one.imitator_reward for one in mine):.3f}",
                _spread(rewards, 3),
                *(
                    _spread(closed(found, activation, size, critic, scaled))
                    for scaled in (True, False)
                    for critic in ("trained", "exact")
                ),
            )
        )
    header = (
        "critic",
        "A",
        "error of Q / spread of r",
        "reward of the imitator",
        "reward, lr A",
        "closed, lr A",
        "exact critic",
        "closed, lr",
        "exact critic, lr",
    )
    note = (
        f"n={SHOWN_STEPS}, lr={SHOWN_LR:g}, taken times A and as it is. Closed: 1 - |a - g|^2 / |a_0 - g|^2, "
        "1 at the optimum and below 0 where Action Gradient loses reward. The error is that of the trained "
        "critic on actions as in the data, in standard deviations of their rewards. Mean (least to greatest) "
        "over seeds."
    )
    return Table(header, rows, note=note)


def gain_settings(found: Sequence[Gain]) -> Table:
    """A row for every activation and A, a column for every step size and n of the trained critic."""
    settings = list(
        dict.fromkeys((row["scaled"], row["lr"], row["steps"]) for one in found for row in one.rows)
    )
    rows = []
    for activation, size in _cells(found):
        cells = [
            f"{fmean(values):.2f}"
            if (values := closed(found, activation, size, "trained", *setting))
            else NONE
            for setting in settings
        ]
        rows.append((activation, f"{size}", *cells))
    names = [f"{lr:g}{' A' if scaled else ''}, n={steps}" for scaled, lr, steps in settings]
    note = "Share of the squared distance that is closed, mean over seeds, by step size and n."
    return Table(("critic", "A", *names), rows, note=note)


def gain_claims(found: Sequence[Gain]) -> list[Claim]:
    """A gain at every A, by a step size that grows with A, and wherever the critic knows its data."""
    claims = []
    for activation in dict.fromkeys(one.activation for one in found):
        sizes = sorted({one.action_dim for one in found if one.activation == activation})
        scaled = {a: fmean(closed(found, activation, a, "trained", True)) for a in sizes}
        plain = {a: fmean(closed(found, activation, a, "trained", False)) for a in sizes}
        several = [a for a in sizes if a > 1]
        claims += [
            _every(f"Action Gradient gains at every A ({activation}, lr {SHOWN_LR:g} A)", scaled, sizes),
            _every(
                f"a step size times A gains more than one that is not, at every A > 1 ({activation})",
                {a: scaled[a] - plain[a] for a in several},
                several,
            ),
        ]
    knowing = [one for one in found if one.critic_error < 1]
    gaining = sum(_setting(one, "trained", True)["closed"] > 0 for one in knowing)
    claims.append(
        Claim(
            "Action Gradient gains wherever the critic tells the data's rewards better than their mean does",
            0 < gaining == len(knowing),
            f"by {gaining} of {len(knowing)} such critics, of {len(found)}",
        )
    )
    return claims


def closed(
    found: Sequence[Gain],
    activation: str,
    action_dim: int,
    critic: str,
    scaled: bool,
    lr: float = SHOWN_LR,
    steps: int = SHOWN_STEPS,
) -> list[float]:
    """The share that is closed, of every seed."""
    return [
        _setting(one, critic, scaled, lr, steps)["closed"]
        for one in found
        if (one.activation, one.action_dim) == (activation, action_dim)
    ]


def _setting(
    one: Gain, critic: str, scaled: bool, lr: float = SHOWN_LR, steps: int = SHOWN_STEPS
) -> dict[str, Any]:
    wanted = (critic, scaled, lr, steps)
    return next(r for r in one.rows if (r["critic"], r["scaled"], r["lr"], r["steps"]) == wanted)


def _cells(found: Sequence[Gain]) -> list[tuple[str, int]]:
    """Activation and A, those of one activation together."""
    order = list(dict.fromkeys(one.activation for one in found))
    return sorted(
        {(one.activation, one.action_dim) for one in found}, key=lambda c: (order.index(c[0]), c[1])
    )


def _spread(values: Sequence[float], digits: int = 2) -> str:
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _every(text: str, gains: dict[int, float], sizes: Sequence[int]) -> Claim:
    lost = [str(a) for a in sizes if gains[a] <= 0]
    where = f"; not at A = {', '.join(lost)}" if lost else ""
    return Claim(text, not lost, f"at {len(sizes) - len(lost)} of {len(sizes)}{where}")
