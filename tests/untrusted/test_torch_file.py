"""Files of torch.save: weights as torch.load gives them; nothing runs, no promise of a size is believed."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dtag_fast.untrusted.containers import Refused
from dtag_fast.untrusted.plain_pickle import MOST_OPCODES, Omitted, read_pickle
from dtag_fast.untrusted.torch_file import flat_tensors, load_plain

PATH = Path("model.pt")


def saved(value, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def load(content: bytes):
    return load_plain(PATH, content)


def rezipped(content: bytes, change, method: int = zipfile.ZIP_STORED) -> bytes:
    """The zip of torch.save with its entries changed: {name without its root: content}."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, value in entries.items():
            archive.writestr(f"archive/{name}", value)
    return stream.getvalue()


def replaced_in_pickle(content: bytes, old: bytes, new: bytes) -> bytes:
    def change(entries):
        assert old in entries["data.pkl"]
        entries["data.pkl"] = entries["data.pkl"].replace(old, new)

    return rezipped(content, change)


def test_a_training_state_is_read_as_torch_reads_it():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    shared = torch.randn(4, 3)
    kinds = (torch.bfloat16, torch.float16, torch.int64, torch.bool)
    value = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [shared, shared[1:, ::2], shared.T, shared[0, 0]],
        "parameter": nn.Parameter(torch.ones(2)),
        "kinds": [torch.ones(2, dtype=kind) for kind in kinds],
        "empty": torch.empty(0, 3),
        "in words": [torch.float16, torch.Size([2, 3])],
        "plain": {"steps": 10**12, 3: -1.5, "none": None, "yes": True, "text": "é", "nested": [(1, 2), "x"]},
    }
    content = saved(value)
    ours, theirs = load(content), torch.load(io.BytesIO(content), weights_only=True)
    assert ours["plain"] == theirs["plain"] and ours["in words"] == [torch.float16, (2, 3)]
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    found, expected = flat_tensors(ours), flat_tensors(theirs)
    assert list(found) == list(expected)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
        assert tensor.dtype == expected[name].dtype and not tensor.requires_grad


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_arrays_and_numbers_of_every_protocol(protocol):
    value = {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "yes": np.array([True, False]),
        "in tuple": (np.ones(2), np.float32(0.5)),
        "twice": [np.zeros(1)] * 2,
    }
    ours = load(pickle.dumps(value, protocol=protocol))
    for name in ("c", "f", "big", "yes"):
        np.testing.assert_array_equal(ours[name], value[name])
    np.testing.assert_array_equal(ours["in tuple"][0], np.ones(2))
    assert ours["in tuple"][1] == 0.5 and ours["twice"][0] is ours["twice"][1]


class Executes:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("place", ["alone", "in torch.save", "legacy", "as a key", "in a state"])
def test_nothing_in_a_file_runs(place, tmp_path):
    marker = tmp_path / "ran"
    bad = Executes(marker)
    if place == "alone":
        content = pickle.dumps({"q": bad})
    elif place == "as a key":
        content = b"\x80\x02}cposix\nmkdir\nX" + struct.pack("<I", len(str(marker))) + str(marker).encode()
        content += b"\x85RNs."
    elif place == "in a state":
        content = b"\x80\x02ccollections\nOrderedDict\n)Rcposix\nmkdir\nX"
        content += struct.pack("<I", len(str(marker))) + str(marker).encode() + b"\x85Rb."
    else:
        content = saved({"q": bad}, _use_new_zipfile_serialization=place != "legacy")
    with pytest.raises(ValueError, match=r"before anything of it ran|before 1\.6"):
        load(content)
    assert not marker.exists()


WEIGHTS = saved({"w": torch.arange(6.0).reshape(2, 3)})


def tensor_pickle(sizes: tuple, strides: tuple, offset: int = 0) -> bytes:
    """WEIGHTS' data.pkl with another shape over its six numbers."""

    def change(entries):
        class Storage:
            pass

        stream = io.BytesIO()

        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                return ("storage", torch.FloatStorage, "0", "cpu", 6) if isinstance(value, Storage) else None

            def reducer_override(self, value):
                if value is marker:
                    return torch._utils._rebuild_tensor_v2, (Storage(), offset, sizes, strides, False, {})
                return NotImplemented

        marker = Marker()
        Pickler(stream, protocol=2).dump({"w": marker})
        entries["data.pkl"] = stream.getvalue()

    return rezipped(WEIGHTS, change)


class Marker:
    pass


def test_shapes_over_a_storage_are_as_written():
    torch.testing.assert_close(load(tensor_pickle((3, 2), (1, 3)))["w"], torch.arange(6.0).reshape(2, 3).T)
    torch.testing.assert_close(load(tensor_pickle((2,), (2,), 1))["w"], torch.tensor([1.0, 3.0]))


@pytest.mark.parametrize(
    ("sizes", "strides", "offset"),
    [
        ((10**6, 10**6), (0, 0), 0),  # expanded out of one number
        ((2**40,), (1,), 0),
        ((7,), (1,), 0),
        ((2, 3), (3, 1), 1),
        ((2, 3), (4, 1), 0),
        ((2, 3), (-3, 1), 5),
        ((-2, 3), (3, 1), 0),
        ((2, 3), (3,), 0),
        ((2, 3), (3, 1), -1),
        ((2.0, 3), (3, 1), 0),
        ((True, 3), (3, 1), 0),
        ((1,) * 9, (1,) * 9, 0),
        ((2**62, 2**62), (1, 1), 0),
    ],
)
def test_shapes_beyond_their_storage_are_refused(sizes, strides, offset):
    with pytest.raises(ValueError, match="refused: a tensor of shape") as raised:
        load(tensor_pickle(sizes, strides, offset))
    assert "\n" not in str(raised.value)


def without_storage(entries):
    del entries["data/0"]


def short_storage(entries):
    entries["data/0"] = entries["data/0"][:-4]


def odd_storage(entries):
    entries["data/0"] = entries["data/0"][:-1]


def big_endian(entries):
    entries["byteorder"] = b"big"


def script(entries):
    entries["constants.pkl"] = b"\x80\x02N."


def no_pickle(entries):
    del entries["data.pkl"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_storage, "no entry"),
        (short_storage, "it promises 6 numbers"),
        (odd_storage, "no whole number"),
        (big_endian, "big-endian"),
        (script, "TorchScript"),
        (no_pickle, "one data.pkl"),
    ],
)
def test_zip_files_that_torch_save_does_not_write_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        load(rezipped(WEIGHTS, change))


def test_a_compressed_file_is_refused_so_that_memory_stays_that_of_the_file():
    with pytest.raises(ValueError, match="compressed"):
        load(rezipped(WEIGHTS, lambda entries: None, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda: torch.ones(2, dtype=torch.complex64),
        lambda: torch.ones(2, device="meta"),
        lambda: torch.ones(2).as_subclass(Subclass),
        lambda: torch.ones(2).to(torch.float8_e4m3fn),
        lambda: nn.Linear(2, 2),
    ],
    ids=["sparse", "csr", "quantized", "complex", "meta", "subclass", "float8", "module"],
)
@pytest.mark.filterwarnings("ignore")
def test_other_kinds_of_tensors_are_refused(make):
    with pytest.raises(ValueError, match="save") as raised:
        load(saved({"w": make()}))
    assert "\n" not in str(raised.value) and str(raised.value).startswith("model.pt: refused")


def test_the_form_before_1_6_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"torch\.save it again"):
        load(saved({"w": torch.ones(2)}, _use_new_zipfile_serialization=False))


def shared_lists(levels: int) -> bytes:
    """A list of lists of lists ..., each holding the next ten times: 10 ** levels values in a few bytes."""
    value: list = []
    for _ in range(levels):
        value = [value] * 10
    return pickle.dumps(value)


def nested(levels: int) -> bytes:
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


def chained(levels: int) -> bytes:
    """[a0, a1, ...] with a1 = [a0], a2 = [a1]: each met at depth one, the last lies deepest."""
    value, chain = [], []
    for _ in range(levels):
        value = [value]
        chain.append(value)
    out = io.BytesIO()
    out.write(b"\x80\x04](")
    for i in range(levels):
        out.write(b"](" + (b"" if i == 0 else b"j" + struct.pack("<I", i - 1)) + b"e\x94")
    out.write(b"e.")
    return out.getvalue()


def keys_of_keys(levels: int) -> bytes:
    """A dict key of tuples whose hash takes 2 ** levels steps."""
    return b"\x80\x04})" + b"\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(levels)) + b"Ns."


HOSTILE = {
    "unfolds": (shared_lists(12), "unfold"),
    "nested": (nested(10_000), "nested"),
    "nested by references": (chained(5_000), "nested"),
    "holds itself": (b"\x80\x04]\x94h\x00a.", "hold"),
    "hash of tuples": (keys_of_keys(60), "key of type tuple"),
    "memo index": (b"\x80\x02Nr\xff\xff\xff\x7f.", None),  # pickle.loads would touch 32 GiB
    "huge text": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.", "ends at byte"),
    "huge bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "ends at byte"),
    "huge integer": (b"\x80\x04\x8b" + struct.pack("<I", 2**30) + b"x.", "integer of"),
    "endless": (b"\x80\x02" + b"N0" * MOST_OPCODES, "opcodes"),
    "cut": (WEIGHTS[: len(WEIGHTS) // 2], "damaged"),
    "no end": (b"\x80\x02]", "ends at byte"),
    "empty stack": (b"\x80\x02.", "damaged"),
    "no mark": (b"\x80\x02t.", "damaged"),
    "reference to nothing": (b"\x80\x02h\x05.", "damaged"),
    "attributes of a list": (b"\x80\x02]}b.", "attributes"),
    "call of text": (b"\x80\x02X\x01\x00\x00\x00x)R.", "calls something"),
    "external": (b"\x80\x02NQ.", "outside of it"),
    "extension": (b"\x80\x02\x82\x01.", "opcode"),
    "protocol 0": (b"(lp0\n.", "a zip file"),
    "unprintable key": (b"\x80\x02}X\x03\x00\x00\x00a\nbNs.", "key that is no name"),
    "array without contents": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R.",
        "no contents",
    ),
    "class as a value": (b"\x80\x02cnumpy\nndarray\n.", "no contents"),
    "text": (b"hello", "a zip file"),
    "nothing": (b"", "a zip file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_cost_no_more_than_their_length(name):
    content, said = HOSTILE[name]
    tracemalloc.start()
    try:
        if said is None:
            assert load(content) is None
        else:
            with pytest.raises(ValueError, match=said) as raised:
                load(content)
            assert "\n" not in str(raised.value) and str(raised.value).startswith("model.pt: ")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_one_tensor_in_very_many_places_is_refused():
    tensor = torch.zeros(100_000)
    with pytest.raises(ValueError, match="unfold to"):
        load(saved({str(i): tensor for i in range(1_000)}))
    shared = load(saved({str(i): tensor for i in range(50)}))  # an encoder of fifty Q functions
    assert len(shared) == 50


def test_names_of_classes_are_looked_up_in_the_table_alone():
    assert read_pickle(b"\x80\x02cmine\nkind\n)R.", {"mine.kind": lambda: 7}) == 7
    with pytest.raises(Refused, match=r"'mine\.other'"):
        read_pickle(b"\x80\x02cmine\nother\n)R.", {"mine.kind": lambda: 7})
    for name in (
        "__builtin__\neval",
        "builtins\neval",
        "os\nsystem",
        "torch.serialization\nload",
        "torch\nhub",
    ):
        with pytest.raises(Refused, match="before anything of it ran"):
            read_pickle(b"\x80\x02c" + name.encode() + b"\n.", {})


def test_objects_of_named_classes_beside_the_weights_are_left_out_and_nothing_of_them_runs(tmp_path):
    content = saved({"w": torch.ones(2), "extra": nn.Linear(2, 2), "bad": Executes(tmp_path / "ran")})
    with pytest.raises(ValueError, match=r"'(posix|nt)\.mkdir'"):
        load_plain(PATH, content, omitted={"Linear"})
    value = load_plain(PATH, content, omitted={"Linear", "mkdir"})
    assert list(flat_tensors(value)) == ["w"] and isinstance(value["extra"], Omitted)
    assert not (tmp_path / "ran").exists()


def test_two_tensors_of_one_dotted_name():
    with pytest.raises(ValueError, match="two tensors"):
        flat_tensors({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}})


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_plain(tmp_path / "none.pt")
