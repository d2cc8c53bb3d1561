"""The batches of several seeds, gathered at once."""

import torch
from torch.utils._pytree import tree_map

from dtag_fast.data.samplers import TransitionSampler, WindowSampler
from dtag_fast.ops.per_seed import Generators


class SeedSampler:
    """Draws for every seed the batch that it would get alone.

    Args:
        sampler: of one seed. All seeds have the same data and settings.
    """

    def __init__(self, sampler: WindowSampler | TransitionSampler):
        self._sampler = sampler

    def sample(self, generators: Generators):
        """A batch as the sampler's, every tensor (N, B, ...) for N generators."""
        drawn = [self._sampler.draw(generator) for generator in generators.members]
        joined = {name: torch.cat([one[name] for one in drawn]) for name in drawn[0]}
        return tree_map(lambda x: x.unflatten(0, (len(drawn), -1)), self._sampler.gather(joined))
