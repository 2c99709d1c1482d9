"""Published checkpoints from strangers: whatever a pickle names, nothing runs; each bad file gets one clear line."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localhyper.errors import HypernetworkError
from localhyper.export.checkpoint_file import open_checkpoint
from localhyper.export.checkpoint_pickle import MAX_PICKLE_BYTES, PickleRefused, Record, TensorView, read_pickle

VALUES = np.arange(12, dtype="<f4")


def short(text: str) -> bytes:
    """Text as an opcode of protocol 2."""
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(text: str) -> bytes:
    module, _, last = text.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def whole(number: int) -> bytes:
    return b"\x8a\x08" + number.to_bytes(8, "little", signed=True)


def wholes(*numbers: int) -> bytes:
    return b"(" + b"".join(whole(number) for number in numbers) + b"t"


def storage(key: str = "0", kind: str = "torch.FloatStorage", elements: int = 12, device: str = "cpu") -> bytes:
    return b"(" + short("storage") + name(kind) + short(key) + short(device) + whole(elements) + b"tQ"


def tensor(
    memory: bytes | None = None, offset: int = 0, shape: tuple[int, ...] = (3, 4), strides: tuple[int, ...] = (4, 1)
) -> bytes:
    arguments = (storage() if memory is None else memory) + whole(offset) + wholes(*shape) + wholes(*strides)
    empty = name("collections.OrderedDict") + b")R"
    return name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"\x89" + empty + b"tR"


def state(**entries: bytes) -> bytes:
    """The pickle of an OrderedDict with these entries."""
    items = b"".join(short(key) + value for key, value in entries.items())
    return b"\x80\x02" + name("collections.OrderedDict") + b")R(" + items + b"u."


def save(path: Path, data: bytes, entries: dict[str, bytes] | None = None, stem: str = "pytorch_model") -> Path:
    """A zip as torch.save writes one."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{stem}/data.pkl", data)
        file.writestr(f"{stem}/byteorder", "little")
        for key, content in ({"data/0": VALUES.tobytes()} if entries is None else entries).items():
            file.writestr(f"{stem}/{key}", content)
    return path


def one_line(path: Path) -> str:
    """The message of the error that opening `path` and reading all of it must raise."""
    with pytest.raises(HypernetworkError) as caught, open_checkpoint(path) as checkpoint:
        for key in checkpoint.tensors:
            checkpoint.read(key)
    assert "\n" not in caught.value.message and len(caught.value.message) < 600
    assert str(path) in caught.value.message
    assert not caught.value.message.endswith(".") and caught.value.hint
    return caught.value.message


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that malicious pickles try to make."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "a pickle was executed"


class Evil:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def commands(canary: str) -> dict[str, object]:
    """Objects whose unpickling makes the canary."""
    import builtins
    import codecs
    import functools
    import operator
    import subprocess

    touch, code = f"touch '{canary}'", f"open({canary!r}, 'w')"
    return {
        "os.system": Evil(os.system, touch),
        "builtins.eval": Evil(eval, code),
        "builtins.exec": Evil(exec, code),
        "builtins.open": Evil(open, canary, "w"),
        "builtins.__import__": Evil(__import__, "this"),
        "builtins.getattr": Evil(getattr, Evil(__import__, "os"), "system"),
        "subprocess.call": Evil(subprocess.call, ["touch", canary]),
        "functools.partial": Evil(functools.partial, open, canary, "w"),
        "operator.attrgetter": Evil(operator.attrgetter, "system"),
        "operator.methodcaller": Evil(operator.methodcaller, "write_text", canary),
        "codecs.encode": Evil(codecs.encode, "x", "rot13"),
        "pickle.loads": Evil(pickle.loads, pickle.dumps(Evil(os.system, touch))),
        "bytearray": Evil(builtins.bytearray, 8),
        "a path": Path(canary),
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("attack", sorted(commands("x")))
def test_calls_that_a_pickle_asks_for_never_happen(tmp_path: Path, canary: Path, attack: str, protocol: int) -> None:
    data = pickle.dumps({"w": commands(str(canary))[attack]}, protocol)
    assert "refused" in one_line(save(tmp_path / "evil.bin", data))


RAW = {
    "STACK_GLOBAL": b"\x80\x02" + short("posix") + short("system") + b"\x93.",
    "INST": b"\x80\x02(" + short("touch x") + b"iposix\nsystem\n.",
    "OBJ": b"\x80\x02(" + name("collections.OrderedDict") + b"o.",
    "NEWOBJ_EX": b"\x80\x02" + name("ctx_to_lora.configs.CtxEncoderArguments") + b")}\x92.",
    "NEWOBJ of a function": b"\x80\x02" + name("torch._utils._rebuild_tensor_v2") + b")\x81.",
    "NEWOBJ with arguments": b"\x80\x02" + name("peft.tuners.lora.config.LoraConfig") + short("x") + b"\x85\x81.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "protocol 4": b"\x80\x04" + b"\x8c\x01x.",
    "a frame": b"\x80\x02\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "text persistent id": b"\x80\x02P0\n.",
    "a module of torch": state(w=name("torch.load") + short("x") + b"\x85R"),
    "a hub call": state(w=name("torch.hub.load") + short("x") + b"\x85R"),
    "another storage": state(w=tensor(storage(kind="torch.UntypedStorage"))),
    "dotted attribute": state(w=name("torch._utils._rebuild_tensor_v2.__globals__")),
    "neighbour of an allowed name": state(w=name("torch._utils._rebuild_tensor")),
    "a class of the right name elsewhere": state(w=name("evil.LoraConfig") + b")\x81"),
    "OrderedDict with arguments": state(w=name("collections.OrderedDict") + b"]\x85R"),
    "set of numbers": state(w=name("__builtin__.set") + b"]" + whole(1) + b"a\x85R"),
    "set of a set": state(w=name("__builtin__.set") + name("__builtin__.set") + b"\x85R"),
    "enumeration of a tuple": state(w=name("peft.utils.peft_types.PeftType") + b")\x85R"),
    "call of a record": state(w=name("peft.tuners.lora.config.LoraConfig") + b")R"),
    "call of text": state(w=short("x") + b")R"),
    "call of a tensor": state(w=tensor() + b")R"),
    "call without a tuple": state(w=name("collections.OrderedDict") + b"]R"),
    "state for a class": state(w=name("peft.tuners.lora.config.LoraConfig") + b"}b"),
    "state for a function": state(w=name("torch._utils._rebuild_tensor_v2") + b"}b"),
    "state for a tensor": state(w=tensor() + b"}b"),
    "slots": state(w=name("peft.tuners.lora.config.LoraConfig") + b")\x81N}\x86b"),
    "state for a dictionary": state(w=b"}}b"),
    "items of a record": state(w=name("peft.tuners.lora.config.LoraConfig") + b")\x81" + short("a") + b"Ns"),
    "append to text": state(w=short("x") + b"Na"),
    "tensor of text": state(w=tensor(short("x"))),
    "tensor of a storage class": state(w=tensor(name("torch.FloatStorage"))),
    "too few arguments": state(w=name("torch._utils._rebuild_tensor_v2") + b"(" + storage() + b"tR"),
    "huge number": state(w=b"\x8a\xff" + b"\xff" * 255),
    "long text number": b"\x80\x02" + b"L" + b"9" * 5000 + b"L\n.",
    "an empty stack": b"\x80\x02R.",
    "an odd number of items": b"\x80\x02}(" + short("a") + b"u.",
    "a mark that is left": b"\x80\x02(.",
    "two objects": b"\x80\x02NN.",
    "an unknown memo": b"\x80\x02h\x05.",
    "no stop": b"\x80\x02}",
    "text beyond the end": b"\x80\x02X\xff\xff\xff\xffabc.",
    "no UTF-8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "a name without an end": b"\x80\x02c" + b"a" * 5000,
    "nothing": b"",
    "a list": b"\x80\x02].",
    "a tensor alone": b"\x80\x02" + tensor() + b".",
    "a number as key": b"\x80\x02}" + whole(3) + b"Ns.",
    "a key of bool": b"\x80\x02}\x88Ns.",
}


@pytest.mark.parametrize("case", sorted(RAW))
def test_unusual_pickles_are_refused(tmp_path: Path, case: str) -> None:
    one_line(save(tmp_path / "bad.bin", RAW[case]))


def persistent(*parts: bytes) -> bytes:
    return state(w=tensor(b"(" + b"".join(parts) + b"tQ"))


FLOATS = name("torch.FloatStorage")
IDENTITIES = {
    "text": state(w=tensor(short("storage") + b"Q")),
    "another kind": persistent(short("module"), FLOATS, short("0"), short("cpu"), whole(12)),
    "too short": persistent(short("storage"), FLOATS, short("0"), short("cpu")),
    "a class that is text": persistent(short("storage"), short("FloatStorage"), short("0"), short("cpu"), whole(12)),
    "a path": persistent(short("storage"), FLOATS, short("../../../etc/passwd"), short("cpu"), whole(12)),
    "a superscript": persistent(short("storage"), FLOATS, short("²"), short("cpu"), whole(12)),
    "a numeric key": persistent(short("storage"), FLOATS, whole(0), short("cpu"), whole(12)),
    "elements as text": persistent(short("storage"), FLOATS, short("0"), short("cpu"), short("12")),
    "fewer elements": persistent(short("storage"), FLOATS, short("0"), short("cpu"), whole(11)),
    "negative elements": persistent(short("storage"), FLOATS, short("0"), short("cpu"), whole(-1)),
    "endless elements": persistent(short("storage"), FLOATS, short("0"), short("cpu"), whole(2**62)),
    "no such entry": persistent(short("storage"), FLOATS, short("7"), short("cpu"), whole(12)),
}


@pytest.mark.parametrize("case", sorted(IDENTITIES))
def test_persistent_ids_of_other_kinds_are_refused(tmp_path: Path, case: str) -> None:
    one_line(save(tmp_path / "bad.bin", IDENTITIES[case]))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (3, 4), (2**50, 1)),
        (0, (2**39, 2**39), (0, 0)),
        (0, (10**6,), (0,)),
        (0, (3, 5), (4, 1)),
        (1, (3, 4), (4, 1)),
        (-1, (3, 4), (4, 1)),
        (12, (1,), (1,)),
        (0, (-3, 4), (4, 1)),
        (0, (3, 4), (-4, 1)),
        (0, (3, 4), (4,)),
        (0, (1,) * 9, (1,) * 9),
        (2**62, (1,), (1,)),
        (0, (0, 4), (4, 1)),
        (0, (2**41,), (1,)),
    ],
)
def test_tensors_that_leave_their_storage_are_refused(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    assert "tensor" in one_line(save(tmp_path / "bad.bin", state(w=tensor(None, offset, shape, strides))))


def test_a_reference_bomb_takes_neither_time_nor_memory(tmp_path: Path) -> None:
    # Forty tuples that hold the one before twice: hashed, compared or printed, it would be 2^40 items.
    nest = b")q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(40))
    for use in (b"Ns", b"\x85R"):
        before = b"}" if use == b"Ns" else name("__builtin__.set")
        one_line(save(tmp_path / "bomb.bin", b"\x80\x02" + before + nest + use + b"."))
    with open_checkpoint(save(tmp_path / "bomb.bin", state(w=tensor(), note=nest))) as checkpoint:
        assert set(checkpoint.values) == {"note"}
    with open_checkpoint(save(tmp_path / "own.bin", b"\x80\x02}q\x01" + short("me") + b"h\x01s.")) as checkpoint:
        assert checkpoint.values["me"] is not None
    deep = b"N" + b"\x85" * 500_000
    with open_checkpoint(save(tmp_path / "deep.bin", state(note=deep))) as checkpoint:
        assert not checkpoint.tensors
    one_line(save(tmp_path / "large.bin", b"\x80\x02" + b"N0" * MAX_PICKLE_BYTES))


def test_what_published_checkpoints_hold_is_read(tmp_path: Path) -> None:
    record = name("ctx_to_lora.modeling_utils.HypernetConfig") + b")\x81}" + short("latent_size") + whole(8)
    record += b"s" + short("__class__") + short("posix.system") + b"sb"
    modules = name("__builtin__.set") + b"](" + short("up_proj") + short("down_proj") + b"e\x85R"
    data = state(
        **{
            "_orig_mod.w": tensor(storage(device="cuda:0")),
            "column": tensor(None, 1, (3,), (4,)),
            "half": tensor(storage("1", "torch.HalfStorage", 4), 0, (2, 2), (1, 2)),
            "brain": tensor(storage("2", "torch.BFloat16Storage", 3), 0, (3,), (1,)),
            "count": tensor(storage("3", "torch.LongStorage", 2), 0, (2,), (1,)),
            "config": record,
            "modules": modules,
            "kind": name("peft.utils.peft_types.PeftType") + short("LORA") + b"\x85R",
        }
    )
    entries = {
        "data/0": VALUES.tobytes(),
        "data/1": np.array([1, 2, 3, 4], "<f2").tobytes(),
        "data/2": np.array([0x3F80, 0xC020, 0x7F7F], "<u2").tobytes(),
        "data/3": np.array([5, -6], "<i8").tobytes(),
    }
    for stem in ("archive", "pytorch_model", "hypermod"):
        with open_checkpoint(save(tmp_path / f"{stem}.bin", data, entries, stem)) as checkpoint:
            assert list(checkpoint.tensors) == ["w", "column", "half", "brain", "count"]
            np.testing.assert_array_equal(checkpoint.read("w"), VALUES.reshape(3, 4))
            np.testing.assert_array_equal(checkpoint.read("column"), [1, 5, 9])
            half, brain = checkpoint.read("half"), checkpoint.read("brain")
            assert half.dtype == brain.dtype == np.float32
            np.testing.assert_array_equal(half, [[1, 3], [2, 4]])
            np.testing.assert_allclose(brain, [1.0, -2.5, 3.3895314e38])
            assert checkpoint.read("count").tolist() == [5, -6]
            assert checkpoint.values["modules"] == {"up_proj", "down_proj"} and checkpoint.values["kind"] == "LORA"
            config = checkpoint.values["config"]
            assert type(config) is Record and config.kind == "HypernetConfig"
            assert config.fields == {"latent_size": 8, "__class__": "posix.system"}
            with pytest.raises(HypernetworkError, match="no tensor"):
                checkpoint.read("none")


def test_the_same_values_as_torch_reads(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
    torch.manual_seed(0)
    whole = torch.randn(6, 8)
    given = {"a": whole, "b": whole[1:4, ::2], "c": whole.T, "d": whole.bfloat16(), "e": whole.half()}
    given |= {"f": torch.arange(5), "g": torch.tensor(2.5)}
    torch.save(given, tmp_path / "given.bin")
    with open_checkpoint(tmp_path / "given.bin") as checkpoint:
        assert list(checkpoint.tensors) == list(given)
        for key, want in given.items():
            got = checkpoint.read(key)
            assert torch.equal(torch.from_numpy(got.copy()), want if key == "f" else want.float()), key


def test_files_that_are_no_zips_of_torch(tmp_path: Path) -> None:
    assert "does not exist" in one_line(tmp_path / "none.bin")
    assert "folder" in one_line(tmp_path)
    path = tmp_path / "x.bin"
    for content, message in (
        (b"", "is empty"),
        (b"just text " * 100, "no zip"),
        (pickle.dumps({"w": 1}, 2), "bare pickle"),
        (b"PK\3\4" + b"x" * 200, "cut off"),
        (b"PK\3\4", "cut off"),
    ):
        path.write_bytes(content)
        assert message in one_line(path)
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    assert "no zip" in one_line(path)


def test_the_special_file_of_a_device_is_refused() -> None:
    one_line(Path(os.devnull))


def test_every_truncation_and_addition_is_refused(tmp_path: Path) -> None:
    data = save(tmp_path / "good.bin", state(w=tensor())).read_bytes()
    path = tmp_path / "cut.bin"
    for size in (3, 40, len(data) // 2, len(data) - 23, len(data) - 22, len(data) - 1):
        path.write_bytes(data[:size])
        one_line(path)
    path.write_bytes(data + b"x")
    one_line(path)


def test_damaged_values_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "good.bin", state(w=tensor()))
    data = bytearray(path.read_bytes())
    data[data.index(VALUES.tobytes()) + 5] ^= 1
    path.write_bytes(data)
    assert "cannot be read" in one_line(path)


def rewrite(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for key, content in entries:
            file.writestr(key, content)
    return path


GOOD = [("m/data.pkl", state(w=tensor())), ("m/data/0", VALUES.tobytes())]


@pytest.mark.parametrize(
    "extra", ["../../outside", "/etc/passwd", "m/../../x", "m\\x", "other/x", "plain", "m//x", "m/"]
)
def test_entries_with_unusual_names_are_refused(tmp_path: Path, extra: str) -> None:
    one_line(rewrite(tmp_path / "bad.bin", [*GOOD, (extra, b"")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_containers_that_torch_does_not_write(tmp_path: Path) -> None:
    path = tmp_path / "bad.bin"
    for twice in (0, 1):
        assert "twice" in one_line(rewrite(path, [*GOOD, GOOD[twice]]))
    assert "compressed" in one_line(rewrite(path, GOOD, zipfile.ZIP_DEFLATED))
    assert "data.pkl" in one_line(rewrite(path, GOOD[1:]))
    assert "little-endian" in one_line(rewrite(path, [*GOOD, ("m/byteorder", b"big")]))
    assert "twice" in one_line(save(path, state(**{"w": tensor(), "_orig_mod.w": tensor()})))
    assert "which has 47" in one_line(save(path, state(w=tensor()), {"data/0": VALUES.tobytes()[:-1]}))
    assert "is empty" in one_line(save(path, state(w=tensor(storage(elements=0), 0, (0,), (1,))), {"data/0": b""}))
    comment = rewrite(path, GOOD)
    with zipfile.ZipFile(comment, "a") as file:
        file.comment = b"hello"
    one_line(comment)


def test_a_list_of_entries_that_overlap_is_refused(tmp_path: Path) -> None:
    """The bomb of Fifield (2019): many entries that are the same bytes of the file."""
    path = rewrite(tmp_path / "bomb.bin", [*GOOD, ("m/data/1", b"\0" * 4096)])
    data = path.read_bytes()
    start = data.index(b"PK\1\2")
    directory, end = data[start:-22], data[-22:]
    last = directory[directory.rindex(b"PK\1\2") :]
    copies = b"".join(last[:-1] + str(i).encode() for i in range(2, 8))
    directory += copies
    count = 3 + 6
    end = end[:8] + struct.pack("<HHII", count, count, len(directory), start) + b"\0\0"
    path.write_bytes(data[:start] + directory + end)
    assert "more bytes" in one_line(path)


def test_a_list_of_entries_too_long_to_read_is_refused(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "long.bin", GOOD)
    data = path.read_bytes()
    path.write_bytes(data[:-22] + data[-22:-10] + struct.pack("<I", 1 << 30) + data[-6:])
    assert "list of entries" in one_line(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_arbitrary_bytes_in_a_pickle_give_a_value_or_one_refusal(noise: bytes, where: int) -> None:
    good = state(
        w=tensor(), note=name("peft.tuners.lora.config.LoraConfig") + b")\x81}" + short("r") + whole(8) + b"sb"
    )
    at = where % (len(good) + 1)
    for data in (b"\x80\x02" + noise, good[:at] + noise[:3] + good[at + len(noise[:3]) :]):
        try:
            value = read_pickle(data)
        except PickleRefused as error:
            assert "\n" not in str(error)
        else:
            allowed = (dict, list, tuple, frozenset, str, int, float, TensorView, Record, type(None))
            assert isinstance(value, allowed) or type(value).__name__ in ("Name", "Storage")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_changed_anywhere_give_a_checkpoint_or_one_refusal(changes: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder) / "x.bin", state(w=tensor()))
        data = bytearray(path.read_bytes())
        for where, value in changes:
            data[where % len(data)] = value
        path.write_bytes(data)
        try:
            with open_checkpoint(path) as checkpoint:
                for key in checkpoint.tensors:
                    checkpoint.read(key)
        except HypernetworkError as error:
            assert "\n" not in error.message and len(error.message) < 600
