"""The pickle inside a published checkpoint, read without running anything.

`pickle` calls whatever a file names. Here a name is only a name: a reader of the 28 opcodes that `torch.save` writes
(protocol 2) turns the few classes of published checkpoints into plain records and refuses every other name, opcode,
argument and persistent id. Nothing is imported, called, hashed or compared that a file could choose: keys are text or
numbers, so that no nest of tuples is ever hashed. Memory is bounded by the pickle's own size.

Knows neither files nor what a checkpoint should hold.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeGuard

from localhyper.gguf_header import shown

MAX_PICKLE_BYTES = 1 << 20  # that of a checkpoint with nine blocks takes 40 kB
MAX_DIMENSIONS = 8
MAX_EXTENT = 1 << 40

# Storage classes as persistent ids name them: name to numpy's type of one element; bfloat16 has none and stays bits.
STORAGES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16", "LongStorage": "<i8"}
_ORDERED_DICT, _SET = "collections.OrderedDict", "__builtin__.set"
_REBUILD = "torch._utils._rebuild_tensor_v2"
# Dataclasses: pickled as a class and a dictionary of attributes.
RECORDS = frozenset(
    {
        "peft.tuners.lora.config.LoraConfig",
        "peft.tuners.lora.config.LoraRuntimeConfig",
        "ctx_to_lora.modeling.hypernet.HypernetConfig",
        "ctx_to_lora.modeling_utils.HypernetConfig",  # the older spelling
        "ctx_to_lora.modeling.aggregator.AggregatorConfig",
        "ctx_to_lora.configs.CtxEncoderArguments",
    }
)
# Enumerations: pickled as a call of the class with one value, which is all that is kept.
ENUMS = frozenset(
    {
        "peft.utils.peft_types.PeftType",
        "peft.utils.peft_types.TaskType",
        "ctx_to_lora.modeling.aggregator.AGGREGATOR_TYPE",
        "ctx_to_lora.modeling.ctx_encoder.CTX_ENCODER_TYPE",
        "ctx_to_lora.pooling.POOL_FN",
    }
)
ALLOWED = RECORDS | ENUMS | {_ORDERED_DICT, _SET, _REBUILD} | {f"torch.{name}" for name in STORAGES}


class PickleRefused(Exception):
    """The pickle is damaged or holds what no published checkpoint holds; one line without a full stop."""


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names: never looked up."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A tensor's memory.

    Attributes:
        key: Its file inside the zip, `data/<key>`.
        kind: Element type, a value of `STORAGES`.
        elements: Their number.
    """

    key: str
    kind: str
    elements: int


@dataclass(frozen=True)
class TensorView:
    """A tensor: a strided view that lies inside its storage and has no more elements than it.

    Attributes:
        storage: Its memory.
        offset: First element.
        shape: Extents.
        strides: Steps in elements.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Record:
    """An instance of one of the dataclasses.

    Attributes:
        kind: Name of its class without the module.
        fields: Attribute to value; whatever the file says, unchecked.
    """

    kind: str
    fields: dict[str, object] = field(default_factory=dict)


class _OrderedDict(dict[object, object]):
    """Made by a call of `OrderedDict`, which may be followed by attributes of its own; they are dropped."""


class _Mark:
    """Begins the items of a tuple, list or dictionary on the stack."""


def read_pickle(data: bytes) -> object:
    """The object that a pickle of protocol 2 describes.

    Returns:
        Text, numbers, None, tuples, lists, dictionaries, frozensets of text, `TensorView`s and `Record`s. It may
        contain itself: don't walk it.

    Raises:
        PickleRefused: Damaged, too large, or anything in it that published checkpoints don't hold.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise PickleRefused(f"its pickle has {len(data)} bytes, at most {MAX_PICKLE_BYTES} are read")
    if data[:2] != b"\x80\x02":
        raise PickleRefused("its pickle is not of protocol 2")
    return _Machine(data).run()


class _Machine:
    """The pickle machine: a stack, a memo, and one method for each opcode."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 2
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        while (code := self._take(1)) != b".":
            step = _STEPS.get(code)
            if step is None:
                raise PickleRefused(f"its pickle uses the opcode {code!r}, which `torch.save` does not write")
            step(self)
        if len(self._stack) != 1:
            raise PickleRefused(f"its pickle leaves {len(self._stack)} objects where one is expected")
        return self.pop()

    def _take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise PickleRefused("its pickle is cut off")
        self._at += count
        return part

    def _number(self, layout: str) -> int:
        number: int = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return number

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 200)
        if end < 0:
            raise PickleRefused("its pickle is cut off, or has a name without an end")
        return self._take(end + 1 - self._at)[:-1].decode("ascii", "replace")

    def pop(self) -> object:
        if not self._stack or isinstance(self._stack[-1], _Mark):
            raise PickleRefused("its pickle takes from an empty stack")
        return self._stack.pop()

    def items(self) -> list[object]:
        """What lies above the last mark, which is taken away with it."""
        for place in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[place], _Mark):
                items = self._stack[place + 1 :]
                del self._stack[place:]
                return items
        raise PickleRefused("its pickle ends a group that never began")

    def push(self, value: object) -> None:
        self._stack.append(value)

    def number(self, layout: str) -> None:
        self.push(self._number(layout))

    def long(self) -> None:
        count = self._number("<B")
        if count > 8:
            raise PickleRefused(f"its pickle has a number of {count} bytes")
        self.push(int.from_bytes(self._take(count), "little", signed=True))

    def real(self) -> None:
        self.push(float(struct.unpack(">d", self._take(8))[0]))

    def text(self) -> None:
        try:
            self.push(self._take(self._number("<I")).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise PickleRefused("its pickle has text that is no UTF-8") from error

    def name(self) -> None:
        text = f"{self._line()}.{self._line()}"
        if text not in ALLOWED:
            raise PickleRefused(f"its pickle names `{shown(text, 100)}`, which no published checkpoint holds")
        self.push(Name(text))

    def put(self, layout: str) -> None:
        key, value = self._number(layout), self.pop()
        self._memo[key] = value
        self.push(value)

    def get(self, layout: str) -> None:
        key = self._number(layout)
        if key not in self._memo:
            raise PickleRefused("its pickle recalls an object that it never kept")
        self.push(self._memo[key])

    def group(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def group_from_mark(self) -> None:
        self.push(tuple(self.items()))

    def append(self, items: list[object]) -> None:
        target = self.pop()
        if type(target) is not list:
            _refuse("appends to", target)
        target.extend(items)
        self.push(target)

    def set_items(self, items: list[object]) -> None:
        target = self.pop()
        if not isinstance(target, dict) or len(items) % 2:
            _refuse("sets items of", target)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # nothing else may be hashed
                _refuse("has a dictionary with a key that is", key)
            target[key] = value
        self.push(target)

    def persistent(self) -> None:
        self.push(_storage(self.pop()))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.push(_call(function, arguments))

    def new(self) -> None:
        arguments, cls = self.pop(), self.pop()
        if not isinstance(cls, Name) or cls.text not in RECORDS or arguments != ():
            _refuse("makes an instance of", cls)
        self.push(Record(cls.text.rpartition(".")[2]))

    def build(self) -> None:
        """Attributes of an instance; those of an OrderedDict (`_metadata`) are dropped."""
        state, target = self.pop(), self.pop()
        if type(state) is not dict:
            _refuse("gives an object a state that is", state)
        if isinstance(target, Record):
            target.fields.update({key: value for key, value in state.items() if type(key) is str})
        elif not isinstance(target, _OrderedDict):
            _refuse("gives attributes to", target)
        self.push(target)


_STEPS: Mapping[bytes, Callable[[_Machine], None]] = {
    b"(": lambda m: m.push(_Mark()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.number("<B"),
    b"M": lambda m: m.number("<H"),
    b"J": lambda m: m.number("<i"),
    b"\x8a": _Machine.long,
    b"G": _Machine.real,
    b"X": _Machine.text,
    b"c": _Machine.name,
    b"q": lambda m: m.put("<B"),
    b"r": lambda m: m.put("<I"),
    b"h": lambda m: m.get("<B"),
    b"j": lambda m: m.get("<I"),
    b")": lambda m: m.group(0),
    b"\x85": lambda m: m.group(1),
    b"\x86": lambda m: m.group(2),
    b"\x87": lambda m: m.group(3),
    b"t": _Machine.group_from_mark,
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.items()),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.items()),
    b"Q": _Machine.persistent,
    b"R": _Machine.reduce,
    b"\x81": _Machine.new,
    b"b": _Machine.build,
}


def _refuse(what: str, value: object) -> NoReturn:
    """Never prints the value itself, which may be endless."""
    name = f"`{value.text}`" if isinstance(value, Name) else f"a {type(value).__name__.lstrip('_')}"
    raise PickleRefused(f"its pickle {what} {name}, which no published checkpoint does")


def _call(function: object, arguments: object) -> object:
    """What a call stands for; only these few are understood."""
    if not isinstance(function, Name) or type(arguments) is not tuple:
        _refuse("calls", function)
    if function.text == _ORDERED_DICT and arguments == ():
        return _OrderedDict()
    if function.text == _REBUILD and len(arguments) in (6, 7):
        return _tensor(*arguments[:4])
    if len(arguments) == 1:
        if function.text in ENUMS and type(arguments[0]) in (str, int):
            return arguments[0]
        if function.text == _SET and type(arguments[0]) is list and all(type(item) is str for item in arguments[0]):
            return frozenset(arguments[0])
    return _refuse("calls, with unusual arguments,", function)


def _storage(identity: object) -> Storage:
    """`("storage", class, key, device, elements)`: the device is not asked, everything goes to the CPU."""
    if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
        _refuse("has a persistent id that is", identity)
    _, cls, key, device, elements = identity
    kind = STORAGES.get(cls.text.removeprefix("torch.")) if isinstance(cls, Name) else None
    if kind is None or type(key) is not str or type(device) is not str or not _is_extent(elements):
        _refuse("has a persistent id without storage class, key, device or size:", cls)
    if not (key.isascii() and key.isdecimal() and len(key) <= 9):
        raise PickleRefused(f"its pickle keeps a tensor in `{shown(key, 40)}`, wanted a number")
    return Storage(key, kind, elements)


def _tensor(storage: object, offset: object, shape: object, strides: object) -> TensorView:
    if not isinstance(storage, Storage) or not _is_extent(offset):
        _refuse("makes a tensor of", storage)
    if not _are_extents(shape) or not _are_extents(strides) or len(shape) != len(strides):
        raise PickleRefused("its pickle has a tensor whose shape or strides are impossible")
    elements, last = 1, offset
    for extent, stride in zip(shape, strides, strict=True):
        elements, last = elements * extent, last + (extent - 1) * stride
    if elements > storage.elements or (elements and last >= storage.elements):
        raise PickleRefused(
            f"its pickle has a tensor of shape {list(shape)} that reaches beyond its {storage.elements} stored elements"
        )
    return TensorView(storage, offset, shape, strides)


def _is_extent(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_EXTENT


def _are_extents(values: object) -> TypeGuard[tuple[int, ...]]:
    return type(values) is tuple and len(values) <= MAX_DIMENSIONS and all(_is_extent(value) for value in values)
