"""Where environments are stepped: in the process of the policy, or in children side by side.

The rule: in this process, unless two cores or more (and one for each of the policy's threads) are left beside
these, stepping the environments there makes a step of all slots at least `GAIN` times as fast, and that saves
at least twice the time the children take to start. A step is timed, the rest are constants, measured on a
2-core Intel Xeon (AVX-512, AMX) that was busy with other work.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from dtag_fast.rollout.env_processes import EnvironmentProcesses, NotInChildren
from dtag_fast.rollout.environment_kind import EnvironmentKind
from dtag_fast.rollout.environments import Environments

# seconds that a step of all takes longer for each child: CartPole-v1 with one against none
HAND_SHAKE = 40e-6
START = 0.6  # seconds until a child has its environments
GAIN = 1.5


class Placement(NamedTuple):
    """processes: children over all workers, 0 for this process. reason: why."""

    processes: int
    reason: str


def place(
    asked: int | None,
    kind: EnvironmentKind,
    *,
    workers: int,
    slots: int,
    episodes: float,
    timeout: float | None = None,
    cores: int | None = None,
) -> Placement:
    """Decide where `slots` environments are stepped.

    Args:
        asked: what the user wants; None for the rule.
        workers: threads of the policy. episodes: to be played in all.
        timeout: seconds for a reset or step, which only another process can be held to; None: no limit.
        cores: that this process may use; None asks the system.

    Raises:
        ValueError: a timeout, and no processes asked for.
    """
    if asked is not None:
        if timeout is not None and asked == 0:
            raise ValueError(
                "env_timeout: expected worker processes, as an environment in this one cannot be ended, got "
                "env_processes=0; leave one of the two out"
            )
        return Placement(min(asked, slots), "asked for")
    cores = available_cores() if cores is None else cores
    processes = min(cores - workers, slots)
    if timeout is not None:  # nothing is timed here: that step might be the one that hangs
        return Placement(max(workers, processes), "env_timeout needs them")
    if cores - workers < max(2, workers):  # a worker's environments have processes of their own
        return Placement(0, f"{cores} cores, {workers} of them for the policy")
    if processes < 2:
        return Placement(0, "one environment at a time")
    try:
        seconds, limit = kind.time_step()
    except (Exception, SystemExit) as error:
        return Placement(
            0, f"an environment failed while its step was timed: {type(error).__name__}: {error}"
        )
    return judge(seconds, limit, processes, workers=workers, slots=slots, episodes=episodes)


def judge(
    seconds: float, limit: int, processes: int, *, workers: int, slots: int, episodes: int
) -> Placement:
    """The rule for a step of `seconds`, episodes of at most `limit` steps, and children up to `processes`, at
    least 2 and one for each worker."""

    def there(count: int) -> float:
        return -(-slots // count) * seconds + count / workers * HAND_SHAKE

    here = slots / workers * seconds
    count = min(range(max(2, workers), processes + 1), key=there)
    cost = f"a step takes {1e6 * seconds:.0f} us"
    if here < GAIN * there(count):
        return Placement(0, f"{cost}, processes would not gain enough")
    saved = episodes * limit / slots * (here - there(count))
    if saved < 2 * START:
        return Placement(0, f"{cost}, the episodes are too few to pay for the start of processes")
    return Placement(count, f"{cost}, cores are free for {processes} processes")


def refuse_few(processes: int, workers: int) -> None:
    """Say that there are too few processes for every worker to have environments of its own."""
    raise ValueError(
        f"env_processes: expected 0 or at least one for each of the {workers} workers, got {processes}"
    )


def open_environments(
    stack: ExitStack,
    kind: EnvironmentKind,
    slots: Sequence[int],
    placement: Placement,
    timeout: float | None,
    insist: bool,
) -> tuple[list[Environments | EnvironmentProcesses], Placement]:
    """Environments of each worker, closed with the stack, and where they came to be: in this process after
    all where nobody insists on children and these cannot have them.

    Args:
        slots: of each worker. timeout: as `EnvironmentProcesses` takes it.
    """
    if placement.processes:
        numbers = zip(slots, shares(placement.processes, len(slots)), strict=True)
        try:
            return [stack.enter_context(EnvironmentProcesses(kind, *n, timeout)) for n in numbers], placement
        except NotInChildren as error:
            if insist:
                raise
            placement = Placement(0, str(error))
    return [stack.enter_context(kind.build(n)) for n in slots], placement


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most, the larger first."""
    return [len(range(part, total, parts)) for part in range(parts)]
