"""What is kept of an environment that fails while an episode is played, so that the others can finish."""

import traceback
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What happened in place of a reset or a step.

    Attributes:
        error: the exception's class, "FloatingPointError" for a number that is not finite.
        message: what it says. traceback: as Python prints it.
    """

    error: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> "Fault":
        """The fault that `error` is."""
        return cls(type(error).__name__, str(error), "".join(traceback.format_exception(error)))


class Interrupted(Fault):
    """What happened to another environment and took this one's process along: its episode can be played
    again from its seed."""


@dataclass(frozen=True)
class FailedEpisode:
    """An episode that its environment did not let finish; none of its numbers is part of any statistics.

    Attributes:
        label, target_return, seed: of the setting and the episode, as in SettingResult.
        step: where it happened: 0 is the reset, t >= 1 the t-th step.
        error, message, traceback: as in Fault.
    """

    label: str
    target_return: float | None
    seed: int
    step: int
    error: str
    message: str
    traceback: str

    def __str__(self) -> str:
        where = f"step {self.step}" if self.step else "reset"
        message = " ".join(self.message.split())
        return f"seed {self.seed}, {self.label}, {where}: {self.error}{message and ': '}{message}"
