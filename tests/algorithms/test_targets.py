"""Target networks: what a frozen copy is, and how far a move brings it."""

import torch
from tiny_critics import fill
from torch import nn

from dtag_fast.algorithms.targets import TargetNetworks, frozen_copy


def line(weight, bias):
    layer = nn.Linear(1, 1)
    fill(layer, [[weight]], [bias])
    return layer


def numbers(network):
    return [p.item() for p in network.parameters()]


def test_a_frozen_copy_is_in_eval_mode_and_takes_no_gradient():
    """And leaves the original as it was."""
    network = nn.Sequential(line(1.0, 2.0), nn.Dropout(0.5))
    copied = frozen_copy(network)
    assert numbers(copied) == [1.0, 2.0]
    assert not any(module.training for module in copied.modules())
    assert not any(p.requires_grad for p in copied.parameters())
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad for p in network.parameters())


def test_every_copy_moves_a_quarter_of_the_way_to_its_own_original():
    targets = TargetNetworks(polyak=0.25)
    first, second = line(0.0, 8.0), line(1.0, 1.0)
    copies = [targets.copy_of(network) for network in (first, second)]
    fill(first, [[4.0]], [0.0])
    targets.move()
    assert [numbers(copied) for copied in copies] == [[1.0, 6.0], [1.0, 1.0]]
    targets.move()
    assert numbers(copies[0]) == [1.75, 4.5] and numbers(first) == [4.0, 0.0]


def test_copies_follow_weights_that_are_put_elsewhere():
    """As those of seeds that are stacked."""
    targets, network = TargetNetworks(polyak=0.5), line(0.0, 0.0)
    copied = targets.copy_of(network)
    for layer, value in ((network, 2.0), (copied, 1.0)):
        for p in layer.parameters():
            p.data = torch.full((3, *p.shape), value)
    targets.move()
    assert all((p == 1.5).all() for p in copied.parameters())
