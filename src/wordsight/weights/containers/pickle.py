"""Pickles as data: what a pickle of torch says becomes plain values, and nothing that it names is imported or called.

A pickle is a program for a small stack machine. The machine here knows only the instructions that torch writes, and
its names stay names: a function is one of ours, given by the caller, or the file is refused; an object of a class is a
`Record` that holds its state. Work and memory are bounded by the length of the pickle: nothing that it claims is
believed before its bytes are there, no step looks into what is nested, and no two keys can be made to collide.

Source: the instructions as in Python's `pickletools`, which takes them apart.
"""

import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wordsight.errors import WeightsError

MAX_PICKLE_BYTES = 1 << 24
MAX_INSTRUCTIONS = 1 << 19
"""A training checkpoint of the largest published model, its optimiser included, has a quarter of them."""

_MAX_KEY = 1 << 24
_MAX_NAME = 80

Builder = Callable[[tuple[Any, ...]], Any]

INERT = frozenset(
    {
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("bytearray", "complex", "set")),
        "argparse.Namespace",
        "collections.Counter",
        "collections.defaultdict",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "torch.Size",
        "torch.device",
        "_codecs.encode",
    }
)
"""What lies beside weights in training checkpoints and is no weight: kept as a record, of no use to anybody."""

_SCRIPT = "__torch__."
_LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)


class Name:
    """A class or function that a pickle names; it is not looked up."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class Record:
    """An object of a class that is not ours: the class's name and the state it was given."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str, state: Any = None) -> None:
        self.kind = kind
        self.state = state

    @property
    def is_script(self) -> bool:
        """Whether it is a TorchScript module."""
        return self.kind.startswith(_SCRIPT)


def unpickle(pickle: bytes, where: str, builders: Mapping[str, Builder], resolve: Builder) -> Any:
    """The value that a pickle of torch describes.

    Args:
        pickle: its bytes; those behind its end are not looked at.
        where: file and member, named in errors.
        builders: by dotted name, what stands for the functions and classes that may be called, and for names that are
            values of their own (types of storage), which call nothing; each gets the tuple of arguments.
        resolve: what stands for a persistent id, a tuple.

    Returns:
        None, bool, int, float, str, bytes, tuple, list (sets too), dict (ordered ones too), `Name`, `Record`, and what
        `builders` and `resolve` return. Values may contain themselves and one another many times over.

    Raises:
        WeightsError: too long, broken, or it asks for what no file of weights needs.
    """
    if len(pickle) > MAX_PICKLE_BYTES:
        raise WeightsError(f"{where}: {len(pickle)} bytes of pickle, more than any model's; fetch the file again")
    return _Machine(where, builders, resolve).run(pickle)


class _Machine:
    """The stack, the memo, and what each instruction does to them."""

    def __init__(self, where: str, builders: Mapping[str, Builder], resolve: Builder) -> None:
        self.where = where
        self.builders = builders
        self.resolve = resolve
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> Any:
        """What a pickle describes.

        Raises:
            WeightsError: an instruction or a name that is not known, or too many of them.
        """
        for number, (instruction, argument) in enumerate(self._instructions(pickle)):
            if number == MAX_INSTRUCTIONS:
                raise WeightsError(
                    f"{self.where}: more than {MAX_INSTRUCTIONS} instructions; keep only the state dict in the file"
                )
            if instruction == "STOP":
                return self.pop()
            if instruction in _LITERALS:
                self.stack.append(argument)
            elif instruction in _INSTRUCTIONS:
                _INSTRUCTIONS[instruction](self, argument)
            else:
                raise self._refusal(f"instruction {instruction} is none that torch writes")
        raise self._refusal("it breaks off")

    def _instructions(self, pickle: bytes) -> Iterator[tuple[str, Any]]:
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                yield opcode.name, argument
        except ValueError as error:
            raise self._refusal(f"not a whole pickle: {' '.join(str(error).split())[:_MAX_NAME]}") from error

    def _refusal(self, reason: str) -> WeightsError:
        return WeightsError(f"{self.where}: {reason}; the file is broken or hostile: fetch it again")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise self._refusal("an instruction finds nothing on the stack")
        return self.stack.pop()

    def _top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise self._refusal(f"an instruction finds no {kind.__name__} on the stack")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise self._refusal("an instruction finds no mark")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        into = self._top(dict)
        if len(items) % 2:
            raise self._refusal("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str) and not (isinstance(key, int) and 0 <= key < _MAX_KEY):
                raise self._refusal(f"a key is neither a text nor a small number but {type(key).__name__}")
            into[key] = value

    def put(self, number: int) -> None:
        self.memo[number] = self._top(object)

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise self._refusal(f"nothing was put at {number} of the memo")
        self.stack.append(self.memo[number])

    def name(self, path: Any) -> None:
        if path not in self.builders and path not in INERT and not path.startswith(_SCRIPT):
            shown = path if path.isprintable() else ascii(path)
            raise WeightsError(
                f"{self.where}: it asks for {shown[:_MAX_NAME]}, which no weights need; nothing of it was run: "
                "do not trust the file, or save its state dict alone"
            )
        self.stack.append(Name(path))

    def name_from_stack(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise self._refusal("a name is not a text")
        self.name(f"{module}.{name}")

    def call(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise self._refusal("it calls what is no function, or without a tuple of arguments")
        builder = self.builders.get(function.path)
        self.stack.append(builder(arguments) if builder else Record(function.path, arguments))

    def give_state(self, _: Any) -> None:
        state = self.pop()
        receiver = self._top(object)
        if isinstance(receiver, Record):
            receiver.state = state
        elif not isinstance(receiver, dict) or not isinstance(state, dict):  # torch notes versions at a state dict
            raise self._refusal(f"it gives a state to a {type(receiver).__name__}")

    def persistent(self, _: Any) -> None:
        identity = self.pop()
        if not isinstance(identity, tuple):
            raise self._refusal("a persistent id is not a tuple")
        self.stack.append(self.resolve(identity))


_INSTRUCTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "FROZENSET": lambda machine, _: machine.push(machine.since_mark()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda machine, path: machine.name(path.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.give_state,
    "BINPERSID": _Machine.persistent,
}
