"""Devices that are not there are told in one sentence, before anything is loaded or trained."""

import pytest
import torch

from dtag_fast.cli.main import main
from dtag_fast.training.devices import find_device


def test_devices_of_this_machine_are_found():
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")
    for index in range(torch.cuda.device_count()):
        assert find_device(f"cuda:{index}") == torch.device("cuda", index)


def test_others_are_refused():
    with pytest.raises(ValueError, match="device: expected cpu, cuda or one such as cuda:0, got 'gpu'"):
        find_device("gpu")
    with pytest.raises(ValueError, match=r"got cuda:99, and PyTorch .* CUDA devices; take cpu"):
        find_device("cuda:99")


def test_commands_say_so_before_they_read_anything(capsys, tmp_path):
    assert main(["train", "bc", "no/dataset-v0", "--out", str(tmp_path / "run"), "--device", "cuda:99"]) == 2
    assert capsys.readouterr().err.startswith("dtag train: device: expected one of this machine, got cuda:99")
    assert not (tmp_path / "run").exists()
