"""Hostile pickles are refused before anything of them runs; plain ones are read, whoever wrote them."""

import builtins
import codecs
import collections
import copyreg
import functools
import io
import operator
import os
import pickle
import struct
import subprocess
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtag_fast.data.restricted_pickle import as_array, load_plain

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Reduce:
    """Pickles as a call of `function` with `args`, and whatever else __reduce__ may give."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def mark(tmp_path):
    """A file that a successful attack would make."""
    return tmp_path / "mark"


def hostile(mark):
    code = f"open({str(mark)!r}, 'w').close()"
    system = Reduce(os.system, (f"touch {mark}",))
    return {
        "os.system": system,
        "subprocess": Reduce(subprocess.Popen, (["touch", str(mark)],)),
        "eval": Reduce(eval, (code,)),
        "exec": Reduce(exec, (code,)),
        "open": Reduce(open, (str(mark), "w")),
        "getattr chain": Reduce(
            getattr, (Reduce(getattr, (Reduce(__import__, ("os",)), "system")), "__call__")
        ),
        "import": Reduce(__import__, ("antigravity",)),
        "attrgetter": Reduce(operator.attrgetter("system.__call__"), (1,)),
        "methodcaller": operator.methodcaller("system", "true"),
        "partial": functools.partial(os.system, f"touch {mark}"),
        "map": Reduce(list, (Reduce(map, (os.system, [f"touch {mark}"])),)),
        "nested in a trajectory": [{"observations": np.zeros((2, 3)), "rewards": [system]}],
        "nested in a key": {(1, (2, system)): 3},
        "object array": np.array([{"a": 1}, None], dtype=object),
        "object array of calls": np.array([system], dtype=object),
        "object scalar": Reduce(np._core.multiarray.scalar, (np.dtype("O"), system)),
        "record array": np.zeros(2, dtype=[("a", "f4")]),
        "text array": np.array(["a"]),
        "date array": np.array(["2020-01-01"], dtype="M8[D]"),
        "numpy.load": Reduce(np.load, (str(mark), None, True)),
        "numpy.fromfile": Reduce(np.fromfile, (str(mark),)),
        "numpy.memmap": Reduce(np.memmap, (str(mark), "f4", "w+", 0, (4,))),
        "numpy.frompyfunc": Reduce(np.frompyfunc, (os.system, 1, 1)),
        "runstring": Reduce(np.testing.rundocs, (str(mark),)),
        "copyreg.pickle": Reduce(copyreg.pickle, (dict, print)),
        "copyreg._reconstructor": Reduce(copyreg._reconstructor, (dict, dict, {})),
        "copyreg.add_extension": Reduce(copyreg.add_extension, ("os", "system", 240)),
        "an instance": types.SimpleNamespace(a=1),
        "a class": collections.Counter,
        "a subclass of an array": np.zeros(3).view(np.matrix),
        "a masked array": np.ma.zeros(3),
        "bytes by length": Reduce(bytes, (1 << 40,)),
        "bytearray by length": Reduce(bytearray, (1 << 40,)),
        "zip codec": Reduce(codecs.encode, ("x", "zlib_codec")),
        "decode": Reduce(codecs.decode, (b"x", "zip")),
        "unpickle again": Reduce(pickle.loads, (pickle.dumps(1),)),
        "type": Reduce(type, ("X", (object,), {})),
        "zeros": Reduce(np.zeros, (1 << 40,)),
        "set state of a call": Reduce(np.dtype, ("f4",), (None, {"_function": 1})),
        "set state of an array": Reduce(
            np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), {"array": [1]}
        ),
        "array of a subclass": Reduce(np._core.multiarray._reconstruct, (np.matrix, (0,), b"b")),
        "array with a shape": Reduce(np._core.multiarray._reconstruct, (np.ndarray, (1 << 40,), b"b")),
        "set": {1, 2},
        "complex": 1j,
        "iterator": iter([1, 2]),
        "default dict": collections.defaultdict(list),
        "function of the reader": load_plain,
    }


CASES = list(hostile("x"))


def dump(value, protocol):
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_but_plain_data_is_made(tmp_path, mark, case, protocol):
    path = tmp_path / "x.pkl"
    path.write_bytes(dump(hostile(mark)[case], protocol))
    with pytest.raises(ValueError, match="refused before anything of it ran: it ") as error:
        load_plain(path)
    assert len(str(error.value).splitlines()) == 1
    assert not mark.exists()


def protocol_2(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


ARRAY = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
F4 = b"cnumpy\ndtype\nU\x02f4\x85R"


def array_state(shape, content, dtype=F4):
    """BUILD of an array: (1, shape, dtype, False, content)."""
    numbers = b"".join(b"\x8a\x09" + n.to_bytes(9, "little") for n in shape)
    text = b"T" + struct.pack("<i", len(content)) + content
    return b"(K\x01(" + numbers + b"t" + dtype + b"\x89" + text + b"tb"


RAW = {
    "extension": (b"\x82\x01", "EXT1"),
    "instance of old style": (b"(ios\nsystem\n", "INST"),
    "object of old style": (b"(cnumpy\ndtype\nK\x01o", "OBJ"),
    "new object": (b"cnumpy\ndtype\n)\x81", "NEWOBJ"),
    "new object by keywords": (b"cnumpy\ndtype\n)}\x92", "NEWOBJ_EX"),
    "object from outside": (b"K\x01Q", "BINPERSID"),
    "buffer from outside": (b"\x97", "NEXT_BUFFER"),
    "unknown instruction": (b"\xff", "instruction byte"),
    "dotted name": (b"cnumpy\ncore.multiarray._reconstruct\n", "asks for numpy.core"),
    "other module": (b"cnumpy.lib.npyio\nload\n", "asks for numpy.lib.npyio.load"),
    "almost the module": (b"cnumpy.core.multiarray.x\n_reconstruct\n", "asks for"),
    "state for a function": (b"cnumpy\ndtype\n}U\x0c__defaults__K\x01sb", "an object that has no state"),
    "attributes of a function": (
        b"cnumpy\ndtype\nN}U\x09_functionK\x01s\x86b",
        "an object that has no state",
    ),
    "attributes of a list": (b"]}U\x01aK\x01sb", "changes the attributes"),
    "call of a number": (b"K\x01K\x02\x85R", "calls something that is no function"),
    "call of an array": (ARRAY + b")R", "calls something that is no function"),
    "arguments that are no tuple": (b"cnumpy\ndtype\n]R", "calls something that is no function"),
    "more bytes than the shape": (ARRAY + array_state((1,), b"\0" * 8), "needs 4 bytes and comes with 8"),
    "fewer bytes than the shape": (ARRAY + array_state((1 << 40,), b"\0" * 8), "comes with 8"),
    "shape that overflows": (ARRAY + array_state((1 << 32, 1 << 32), b""), "comes with 0"),
    "negative shape": (ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + F4 + b"\x89U\0tb", "whose shape is none"),
    "huge shape": (ARRAY + array_state((1 << 63, 0), b""), "whose shape is none"),
    "array filled twice": (
        ARRAY + array_state((0,), b"") + array_state((0,), b""),
        "changes an array in an unknown way",
    ),
    "objects in an array of numbers": (ARRAY + b"(K\x01K\x01\x85" + F4 + b"\x89]tb", "arrays of objects"),
    "objects by type": (b"cnumpy\ndtype\nU\x02O8\x85R", "arrays of type 'O8'"),
    "type by name": (b"cnumpy\ndtype\nU\x06object\x85R", "arrays of type 'object'"),
    "type by list": (b"cnumpy\ndtype\n]\x85R", "arrays of type"),
}


@pytest.mark.parametrize(("program", "sentence"), RAW.values(), ids=RAW)
def test_programs_that_no_writer_writes_are_refused(tmp_path, program, sentence):
    path = tmp_path / "x.pkl"
    path.write_bytes(protocol_2(program))
    with pytest.raises(ValueError, match="refused before anything") as error:
        load_plain(path)
    assert sentence in str(error.value)


@settings(max_examples=400, deadline=None)
@given(
    protocol=st.sampled_from(PROTOCOLS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 10_000),
)
def test_a_changed_pickle_is_read_or_refused_and_nothing_else(tmp_path_factory, protocol, changes, cut):
    trajectory = {
        "observations": np.ones((3, 2), np.float32),
        "rewards": [1.0, 2.0],
        "name": "x",
        "n": 10**20,
    }
    data = bytearray(dump([trajectory, np.float64(1.5), collections.OrderedDict(a=1)], protocol))
    for position, byte in changes:
        data[position % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / f"changed-{protocol}.pkl"
    path.write_bytes(data[: len(data) - cut % 3 * (cut % len(data)) // 3])
    try:
        load_plain(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")


def test_what_a_message_quotes_of_a_file_is_harmless(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04\x8c\x04\x1b[2J\x8c\x02\n!\x93.")
    with pytest.raises(ValueError, match="it asks for") as error:
        load_plain(path)
    assert str(error.value).isprintable()


BOMBS = {
    "bytes": b"\x8e" + struct.pack("<Q", 1 << 60),
    "some gigabytes": b"\x8e" + struct.pack("<Q", 1 << 35),
    "text": b"\x8d" + struct.pack("<Q", 1 << 60),
    "bytearray": b"\x96" + struct.pack("<Q", 1 << 60),
    "frame": b"\x95" + struct.pack("<Q", 1 << 60),
    "bytearray in a frame": b"\x95" + struct.pack("<Q", 11) + b"\x96" + struct.pack("<Q", 1 << 60) + b"..",
    "number": b"\x8b" + struct.pack("<i", 0x7FFFFFFF),
    "number in text": b"I" + b"9" * 100_000 + b"\n",
}


@pytest.mark.parametrize("program", BOMBS.values(), ids=BOMBS)
def test_stated_lengths_allocate_nothing(tmp_path, program):
    import tracemalloc

    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x05" + program + b".")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a readable pickle of plain data"):
            load_plain(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_remembered_objects_may_have_any_number(tmp_path):
    """Python's machine in C would make a table of that length."""
    path = tmp_path / "x.pkl"
    path.write_bytes(protocol_2(b"K\x07r\xff\xff\xff\x7f0j\xff\xff\xff\x7f"))
    assert load_plain(path) == 7


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no pickle at all", b"\x80\x04", b"\x80\xff."])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pkl: (not a readable pickle|refused)"):
        load_plain(path)


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(1, 0, 2),
    np.arange(6, dtype=">f8")[::2],
    np.array([True, False]),
    np.arange(3, dtype=np.int64),
    np.arange(3, dtype=np.float16),
    np.zeros((0, 3), np.float32),
    np.array(1.5),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
def test_arrays_and_containers_of_every_protocol(tmp_path, protocol, module):
    content = {
        "list": [1, 2.5, True, None, "text", b"bytes", b"", (1, 2, 3, 4), 10**30],
        "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True)],
        "ordered": collections.OrderedDict(a=1),
        "arrays": ARRAYS,
    }
    data = dump(content, protocol)
    if protocol < 4:  # names are lines there, of any length
        data = data.replace(b"numpy._core", module)
    elif module == b"numpy.core":  # and strings with their length before them, inside a frame
        data = swap_names(data)
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    found = load_plain(path)
    assert found["list"] == content["list"]
    assert found["scalars"] == [1.5, -3, True]
    assert found["ordered"] == {"a": 1}
    for mine, array in zip(found["arrays"], ARRAYS, strict=True):
        mine = as_array(mine)
        assert mine.dtype == array.dtype
        np.testing.assert_array_equal(mine, array)


def swap_names(data):
    """The pickle as NumPy 1 wrote it: frames taken away, and names of modules in their old form."""
    import pickletools

    pieces = [(code, start) for code, _, start in pickletools.genops(data)]
    ends = [start for _, start in pieces[1:]] + [len(data)]
    kept = b"".join(
        data[start:end] for (code, start), end in zip(pieces, ends, strict=True) if code.name != "FRAME"
    )
    for name in ("multiarray", "numeric"):
        new, old = f"numpy._core.{name}".encode(), f"numpy.core.{name}".encode()
        kept = kept.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old)
    return kept


def test_text_of_python_2_is_latin1(tmp_path):
    """As cPickle of Python 2 writes {"a": array([1, -2.5], float32)}, protocol 2: bytes are its str."""
    content = np.array([1, -2.5], np.float32).tobytes()
    assert max(content) > 127
    program = (
        b"}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08" + content + b"tbs"
    )
    path = tmp_path / "x.pkl"
    path.write_bytes(protocol_2(program))
    assert as_array(load_plain(path)["a"]).tolist() == [1.0, -2.5]


def test_nothing_of_the_reader_is_changed_by_reading():
    from dtag_fast.data import restricted_pickle

    meaning = restricted_pickle._MEANINGS[("numpy", "dtype")]
    with pytest.raises(pickle.UnpicklingError):
        meaning._function = builtins.print
    with pytest.raises(AttributeError):
        meaning.__dict__  # noqa: B018
