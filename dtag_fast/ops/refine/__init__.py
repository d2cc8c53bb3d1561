"""Action Gradient refinement of actions under a critic: `refine`, `Refiner`, `explain` and their options."""

from .options import SGD, Adam, ClipNorm, Radius, RMSprop
from .program import Activation, CriticProgram, LayerNorm, Linear

__all__ = [
    "SGD",
    "Activation",
    "Adam",
    "ClipNorm",
    "CriticProgram",
    "LayerNorm",
    "Linear",
    "RMSprop",
    "Radius",
]
