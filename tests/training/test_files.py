"""Files that are either whole or absent."""

import os

import torch

from dtag_fast.training.files import read_tensors, write_tensors


def test_tensors_may_be_read_by_whom_any_new_file_may_be(tmp_path):
    before = os.umask(0o022)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.arange(3)})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["x"], torch.arange(3))
