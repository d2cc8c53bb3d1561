"""One step of a sequence policy for many rollouts in one call on the CPU, from sight to action."""

from .cpu import CompiledSteps, why_not
from .kinds import Rings, StepConfig

__all__ = ["CompiledSteps", "Rings", "StepConfig", "why_not"]
