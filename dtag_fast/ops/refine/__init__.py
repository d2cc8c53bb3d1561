"""Action Gradient refinement of actions under a critic: `refine`, `Refiner`, `explain` and their options."""

from .api import explain, refine
from .explain import Explanation
from .info import RefineInfo
from .options import SGD, Adam, ClipNorm, Prior, Radius, RMSprop, Variant
from .program import Activation, CriticProgram, LayerNorm, Linear
from .refiner import Refiner

__all__ = [
    "SGD",
    "Activation",
    "Adam",
    "ClipNorm",
    "CriticProgram",
    "Explanation",
    "LayerNorm",
    "Linear",
    "Prior",
    "RMSprop",
    "Radius",
    "RefineInfo",
    "Refiner",
    "Variant",
    "explain",
    "refine",
]
