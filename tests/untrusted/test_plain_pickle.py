"""Hostile pickles are refused before anything of them runs; plain ones are read, whoever wrote them."""

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
import tracemalloc
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtag_fast.untrusted.containers import Refused
from dtag_fast.untrusted.plain_pickle import MOST_GIVEN, SMALL, read_pickle
from dtag_fast.untrusted.plain_values import PLAIN

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def load(content):
    return read_pickle(content, PLAIN, most_integer=255)


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
        "frozen set": frozenset((1, 2)),
        "complex": 1j,
        "iterator": iter([1, 2]),
        "default dict": collections.defaultdict(list),
        "function of the reader": read_pickle,
    }


CASES = list(hostile("x"))


def dump(value, protocol):
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_but_plain_data_is_made(mark, case, protocol):
    with pytest.raises(Refused, match=r"^refused(: | before anything of it ran: it)") as error:
        load(dump(hostile(mark)[case], protocol))
    assert len(str(error.value).splitlines()) == 1
    assert not mark.exists()


def protocol_2(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


ARRAY = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
F4 = b"cnumpy\ndtype\nU\x02f4\x85R(K\x03U\x01<tb"


def array_state(shape, content, dtype=F4):
    """BUILD of an array: (1, shape, dtype, False, content)."""
    numbers = b"".join(b"\x8a\x09" + n.to_bytes(9, "little") for n in shape)
    text = b"T" + struct.pack("<i", len(content)) + content
    return b"(K\x01(" + numbers + b"t" + dtype + b"\x89" + text + b"tb"


RAW = {
    "extension": (b"\x82\x01", "EXT1"),
    "instance of old style": (b"(ios\nsystem\n", "INST"),
    "object of old style": (b"(cnumpy\ndtype\nK\x01o", "OBJ"),
    "new object by keywords": (b"cnumpy\ndtype\n)}\x92", "NEWOBJ_EX"),
    "new object": (b"cnumpy\ndtype\n)\x81", "type None"),
    "object from outside": (b"K\x01Q", "outside of it"),
    "object from outside by its name": (b"Pname\n", "PERSID"),
    "buffer from outside": (b"\x97", "NEXT_BUFFER"),
    "unknown opcode": (b"\xff", r"opcode b'\\xff'"),
    "newer protocol": (b"\x80\xff", "protocol 255"),
    "dotted name": (b"cnumpy\ncore.multiarray._reconstruct\n", "asks for 'numpy.core"),
    "other module": (b"cnumpy.lib.npyio\nload\n", "asks for 'numpy.lib.npyio.load'"),
    "almost the module": (b"cnumpy.core.multiarray.x\n_reconstruct\n", "asks for"),
    "state for a function": (b"cnumpy\ndtype\n}U\x0c__defaults__K\x01sb", "gives attributes"),
    "attributes of a function": (b"cnumpy\ndtype\nN}U\x09_functionK\x01s\x86b", "gives attributes"),
    "attributes of a list": (b"]}U\x01aK\x01sb", "gives attributes to a value of type list"),
    "call of a number": (b"K\x01K\x02\x85R", "calls something that is no class"),
    "call of an array": (ARRAY + b")R", "calls something that is no class"),
    "call of an array's class": (b"cnumpy\nndarray\n(K\x01tR", "calls something that is no class"),
    "arguments that are no tuple": (b"cnumpy\ndtype\n]R", "calls something that is no class"),
    "more bytes than the shape": (
        ARRAY + array_state((1,), b"\0" * 8),
        r"and float32 in 8 bytes",
    ),
    "fewer bytes than the shape": (ARRAY + array_state((1 << 40,), b"\0" * 8), "in 8 bytes"),
    "shape that overflows": (ARRAY + array_state((1 << 32, 1 << 32), b""), "in 0 bytes"),
    "negative shape": (ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + F4 + b"\x89U\0tb", r"of shape \(-1,\)"),
    "huge shape": (ARRAY + array_state((1 << 63, 0), b""), "of shape"),
    "very many dimensions": (ARRAY + array_state((1,) * 33, b"\0" * 4), "of shape"),
    "array filled twice": (ARRAY + array_state((0,), b"") + array_state((0,), b""), "gives attributes"),
    "array of another class": (ARRAY.replace(b"cnumpy\nndarray\n", b"K\x01"), "not written as NumPy"),
    "array that has a shape first": (ARRAY.replace(b"K\x00\x85", b"K\x07\x85"), "not written as NumPy"),
    "objects in an array of numbers": (ARRAY + b"(K\x01K\x01\x85" + F4 + b"\x89]tb", "other than numbers"),
    "objects by type": (b"cnumpy\ndtype\nU\x02O8\x85R", "array of type 'O8'"),
    "type by name": (b"cnumpy\ndtype\nU\x06object\x85R", "array of type 'object'"),
    "type by list": (b"cnumpy\ndtype\n]\x85R", "array of type a list"),
    "key of bytes": (b"}C\x01aNs", "key of type bytes"),
    "key of many texts": (b"}(" + b"U\x01a" * 33 + b"tNs", "key of 33 texts"),
    "long key": (b"}X" + struct.pack("<I", 501) + b"a" * 501 + b"Ns", "key that is no name"),
    "large number as a key": (b"}\x8a\x09" + bytes(8) + b"\x01Ns", "key of more than 8 bytes"),
    "large number": (b"\x8b" + struct.pack("<I", 256) + bytes(256), "integer of 256 bytes"),
    "large number in digits": (b"L" + b"9" * 700 + b"L\n", "integer of 29. bytes"),
}


@pytest.mark.parametrize(("program", "sentence"), RAW.values(), ids=RAW)
def test_programs_that_no_writer_writes_are_refused(program, sentence):
    with pytest.raises(Refused, match=f"^refused.*{sentence}") as error:
        load(protocol_2(program))
    assert str(error.value).isprintable()


def nested_twice(levels):
    """A tuple of two that are the same tuple of two ...: its text has 2 ** levels parts."""
    return b")" + b"\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(levels))


@pytest.mark.parametrize(
    "name", ["numpy\ndtype", "torch\nSize", "torch\ndevice", "_codecs\nencode", "collections\nOrderedDict"]
)
def test_what_a_message_says_of_a_value_costs_nothing(name):
    with pytest.raises(Refused):
        load(b"\x80\x04c" + name.encode() + b"\n" + nested_twice(60) + b"h\x00\x86R.")


MANY = 20_000
TEXT = b"X" + struct.pack("<I", 8 * MANY) + b"a" * 8 * MANY
AGAIN = {
    "sizes": (b"](" + b"N" * MANY + b"e", b"ctorch\nSize\nh\x00\x85R"),
    "sets": (b"](" + b"K\x01" * MANY + b"e", b"cbuiltins\nset\nh\x00\x85R"),
    "dicts": (b"](" + b"NN\x86" * MANY + b"e", b"ccollections\nOrderedDict\nh\x00\x85R"),
    "bytes": (
        TEXT,
        b"c_codecs\nencode\nh\x00U\x06latin1\x86R",
    ),
    "arrays": (
        TEXT,
        ARRAY + b"(K\x01M" + struct.pack("<H", 2 * MANY) + b"\x85" + F4 + b"\x89h\x00tb",
    ),
}


@pytest.mark.parametrize("name", AGAIN)
def test_calls_of_one_argument_again_and_again_fill_no_memory(name):
    argument, call = AGAIN[name]
    content = b"\x80\x04" + argument + b"\x94(" + call * 2_000 + b"t."
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match=f"take over {MOST_GIVEN} times its"):
            load(content)
        assert tracemalloc.get_traced_memory()[1] < 2 * (MOST_GIVEN * len(content) + SMALL)
    finally:
        tracemalloc.stop()


@settings(max_examples=400, deadline=None)
@given(
    protocol=st.sampled_from(PROTOCOLS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 10_000),
)
def test_a_changed_pickle_is_read_or_refused_and_nothing_else(protocol, changes, cut):
    trajectory = {
        "observations": np.ones((3, 2), np.float32),
        "rewards": [1.0, 2.0],
        "name": "x",
        "n": 10**20,
    }
    data = bytearray(dump([trajectory, np.float64(1.5), collections.OrderedDict(a=1)], protocol))
    for position, byte in changes:
        data[position % len(data)] = byte
    changed = bytes(data[: len(data) - cut % 3 * (cut % len(data)) // 3])
    try:
        load(changed)
    except Refused as error:
        assert str(error).isprintable()


def test_what_a_message_quotes_of_a_file_is_harmless():
    with pytest.raises(Refused, match="it asks for") as error:
        load(b"\x80\x04\x8c\x04\x1b[2J\x8c\x02\n!\x93.")
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
def test_stated_lengths_allocate_nothing(program):
    tracemalloc.start()
    try:
        with pytest.raises(Refused):
            load(b"\x80\x05" + program + b".")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_remembered_objects_may_have_any_number():
    """Python's machine in C would make a table of that length."""
    assert load(protocol_2(b"K\x07r\xff\xff\xff\x7f0j\xff\xff\xff\x7f")) == 7


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no pickle at all", b"\x80\x04", b"\x80\xff."])
def test_other_files_are_refused(content):
    with pytest.raises(Refused):
        load(content)


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
def test_arrays_and_containers_of_every_protocol(protocol, module):
    content = {
        "list": [1, 2.5, True, None, "text", b"bytes", b"", (1, 2, 3, 4), 10**30],
        "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True)],
        "ordered": collections.OrderedDict(a=1),
        "set": {1, "a"},
        "arrays": ARRAYS,
    }
    data = dump(content, protocol)
    if protocol < 4:  # names are lines there, of any length
        data = data.replace(b"numpy._core", module)
    elif module == b"numpy.core":  # and strings with their length before them, inside a frame
        data = swap_names(data)
    found = load(data)
    assert found["list"] == content["list"]
    assert found["scalars"] == [1.5, -3, True]
    assert found["ordered"] == {"a": 1}
    assert found["set"] == {1, "a"}
    for mine, array in zip(found["arrays"], ARRAYS, strict=True):
        assert mine.dtype == array.dtype and not mine.flags.writeable
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


def test_text_of_python_2_is_latin1():
    """As cPickle of Python 2 writes {"a": array([1, -2.5], float32)}, protocol 2: bytes are its str."""
    content = np.array([1, -2.5], np.float32).tobytes()
    assert max(content) > 127
    program = (
        b"}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08" + content + b"tbs"
    )
    assert load(protocol_2(program))["a"].tolist() == [1.0, -2.5]


def test_protocol_0_of_python_2():
    r"""As its pickle writes ({"a": "\xe9'\n", u"b": True}, [1L, 2, 0.5], OrderedDict([("c", None)]))."""
    content = (
        b"((dp0\nS'a'\np1\nS\"\\xe9'\\n\"\np2\nsVb\np3\nI01\ns(lp4\nL1L\naI2\naF0.5\na"
        b"ccollections\nOrderedDict\np5\n((lp6\n(lp7\nS'c'\np8\naNaatp9\nRp10\ntp11\n."
    )
    assert load(content) == ({"a": "\xe9'\n", "b": True}, [1, 2, 0.5], {"c": None})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_tuple_that_holds_itself_is_written_by_undoing_it(protocol):
    holder = []
    holder.append((holder, 1))
    found = load(dump(holder[0], protocol))
    assert found[1] == 1 and found[0][0] is found


def test_a_file_gives_what_its_bytes_give(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"array": np.arange(3.0), "text": "x"}))
    with path.open("rb") as file:
        from_file = read_pickle(file, PLAIN)
    np.testing.assert_array_equal(from_file["array"], load(path.read_bytes())["array"])


def test_the_sentence_says_what_to_do_instead():
    with pytest.raises(Refused, match=r"asks for 'a\.b'.*; save it otherwise$"):
        read_pickle(b"ca\nb\n.", PLAIN, remedy="save it otherwise")
