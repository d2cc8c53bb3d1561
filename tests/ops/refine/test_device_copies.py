"""Copies of host numbers on a device: made once per contents and stream. Here the device is "meta"."""

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda

from dtag_fast import Refiner
from dtag_fast.ops.refine import device_copies
from dtag_fast.ops.refine.device_copies import DeviceCopies

DEVICE = torch.device("meta")


@pytest.fixture
def cuda():
    return FakeCuda()


@pytest.fixture
def copies(cuda, monkeypatch):
    # The CPU build of torch has no pinned memory.
    monkeypatch.setattr(
        DeviceCopies, "_copy", lambda self, x, device: device_copies._Copy(x.clone(), x.to(device))
    )
    return DeviceCopies(cuda)


def test_the_same_numbers_are_copied_once(copies):
    numbers = torch.tensor([1.0, 2.0])
    first = copies.on(DEVICE, "lr", numbers)
    assert first.device == DEVICE and copies.on(DEVICE, "lr", numbers) is first
    assert copies.on(DEVICE, "lr", torch.tensor([1.0, 2.0])) is first, "another object, the same numbers"
    assert copies.on(DEVICE, "lr", torch.tensor([1, 2])) is not first
    assert copies.on(DEVICE, "lr", torch.tensor([[1.0, 2.0]])).shape == (1, 2)


def test_numbers_that_changed_without_a_version_are_copied_again(copies):
    array = np.array([1, 2], np.int32)
    numbers = torch.from_numpy(array)
    first, version = copies.on(DEVICE, "steps", numbers), numbers._version
    array[0] = 5
    assert numbers._version == version and copies.on(DEVICE, "steps", numbers) is not first


def test_each_stream_has_its_own(copies, cuda):
    numbers = torch.ones(3)
    first = copies.on(DEVICE, "lr", numbers)
    with cuda.stream(cuda.Stream()):
        assert copies.on(DEVICE, "lr", numbers) is not first
    assert copies.on(DEVICE, "lr", numbers) is first


def test_only_the_newest_are_kept(copies):
    for i in range(100):
        copies.on(DEVICE, "lr", torch.full((2,), float(i)))
        copies.on(DEVICE, "lr", torch.zeros(i + 1))
    assert len(copies._kept) == device_copies.SHAPES
    assert all(len(kept) <= device_copies.KEPT for kept in copies._kept.values())


def test_a_capture_takes_what_was_copied_before_and_keeps_it(copies, cuda):
    numbers = torch.ones(3)
    first = copies.on(DEVICE, "lr", numbers)
    with cuda.stream(cuda.Stream()):
        cuda.current_stream().capturing = True
        assert copies.on(DEVICE, "lr", numbers) is first
        with pytest.raises(RuntimeError, match="steps: on the host, and not copied to meta before"):
            copies.on(DEVICE, "steps", torch.zeros(3))
        copies._kept.clear()
        assert copies.on(DEVICE, "lr", numbers) is first


def test_on_the_host_nothing_is_copied():
    copies, numbers = DeviceCopies(cuda=None), torch.ones(3)
    assert copies.on(torch.device("cpu"), "lr", numbers) is numbers


def test_settings_per_row_do_not_age():
    """A Refiner must not go on with numbers that its caller has changed."""
    critic = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    states, actions = torch.ones(2, 2), torch.zeros(2, 1)
    lr = np.full(2, 0.1, np.float32)
    refiner = Refiner(critic)
    before = refiner.run(states, actions, lr=lr)
    lr[:] = 0.0
    assert torch.equal(refiner.run(states, actions, lr=lr), actions) and not torch.equal(before, actions)
