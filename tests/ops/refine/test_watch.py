"""Noticing changed numbers: the Python form and the compiled one agree."""

import pytest
import torch
from torch import nn

from dtag_fast.ops.refine.watch import Watch, slots_of

_C = pytest.importorskip("dtag_fast._C")


def in_place(module):
    with torch.no_grad():
        module[2].bias.add_(0)


def replaced(module):
    module[0].weight = nn.Parameter(module[0].weight.detach().clone())


def buffer_replaced(module):
    module[1].running_mean = module[1].running_mean.clone()


def removed(module):
    del module[2].bias


def loaded(module):
    module.load_state_dict(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).state_dict())


def watched(module):
    watch = Watch(list(slots_of([module]).values()))
    watch.accept(watch.snapshot())
    return watch, watch.quick_changed(_C)


@pytest.mark.parametrize("change", [in_place, replaced, buffer_replaced, loaded])
def test_a_change_is_noticed_until_it_is_accepted(change):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    watch, quick = watched(module)
    assert not watch.changed() and not quick()
    change(module)
    assert watch.changed() and quick()
    watch.accept(watch.snapshot())
    assert not watch.changed() and not quick()


def test_a_removed_parameter_is_a_change():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    _, quick = watched(module)
    removed(module)
    assert quick()


def test_inference_tensors_have_no_versions():
    with torch.inference_mode():
        module = nn.Linear(3, 1)
    watch, quick = watched(module)
    assert not watch.changed() and not quick()
    module.bias = nn.Parameter(torch.zeros(1))
    assert watch.changed() and quick()


def test_the_compiled_form_refuses_what_it_cannot_read():
    tensor = torch.zeros(1)
    with pytest.raises(ValueError, match="four lists of the same length"):
        _C.same_tensors([{}], [], [tensor], [0])
    with pytest.raises(TypeError, match="a list of dicts"):
        _C.same_tensors([tensor], ["weight"], [tensor], [0])
    with pytest.raises(TypeError, match="unhashable"):
        _C.same_tensors([{"weight": tensor}], [[]], [tensor], [0])
