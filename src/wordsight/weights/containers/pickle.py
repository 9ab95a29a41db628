"""Interpret torch's pickles as data; nothing that they name is imported or called.

A pickle is a program for a small stack machine. The machine here supports only the instructions that torch writes, and
does not resolve names: a function is replaced by one that the caller provides, or the file is refused; an object of a
class becomes a `Record` of its state. Time and memory are bounded by the length of the pickle: sizes are checked
against the bytes that exist, no step recurses into nested values, and dictionary keys cannot be made to collide.

Source: the instructions as documented in Python's `pickletools`, which parses them.
"""

import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wordsight.errors import WeightsError

MAX_PICKLE_BYTES = 1 << 24
MAX_INSTRUCTIONS = 1 << 19
"""Four times as many as a training checkpoint of the largest published model has, including its optimiser."""

_MAX_KEY = 1 << 24
_MAX_SHOWN = 80

Builder = Callable[[tuple[Any, ...]], Any]

_PLAIN_TYPES = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "int", "list", "object", "set", "str", "tuple"),
    *("long", "unicode"),  # Python 2
)

INERT = frozenset(
    {
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _PLAIN_TYPES),
        "argparse.Namespace",
        "collections.Counter",
        "collections.defaultdict",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "torch.Size",
        "torch.device",
        "torch.dtype",
        "_codecs.encode",
    }
)
"""Classes and functions in training checkpoints that have nothing to do with weights; they become a `Record`."""

INERT_PACKAGES = (
    *("accelerate.", "deepspeed.", "lightning.", "lightning_fabric.", "numpy.", "omegaconf.", "open_clip.", "pathlib."),
    *("pytorch_lightning.", "torch.cuda.amp.", "torch.optim.", "transformers.", "typing."),
)
"""Packages whose classes occur in training checkpoints as settings and states; they become a `Record` too."""

_UNSUPPORTED_TENSORS = ("torch._utils._rebuild_", "torch.Complex", "torch.Q", "torch.sparse", "torch.distributed.")

_SCRIPT_PREFIX = "__torch__."
_LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)


class Name:
    """The dotted path of a class or function that a pickle names; it is not imported."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class Record:
    """An object of any class: the name of the class, and its state."""

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: Any = None) -> None:
        self.class_name = class_name
        self.state = state

    @property
    def is_script(self) -> bool:
        """Whether it is a TorchScript module."""
        return self.class_name.startswith(_SCRIPT_PREFIX)


def unpickle(pickle: bytes, where: str, builders: Mapping[str, Builder], resolve: Builder) -> Any:
    """Interpret a pickle that torch wrote.

    Args:
        pickle: the bytes; those after its end are ignored.
        where: file and member, named in errors.
        builders: functions to call instead of those that the pickle names, by dotted name. Each receives the tuple of
            arguments. Names that are used as values (types of storages) have a builder that refuses to be called.
        resolve: called with each persistent id, a tuple; returns the object.

    Returns:
        None, bool, int, float, str, bytes, tuple, list (also for sets), dict (also for ordered ones), `Name`, `Record`,
        and whatever `builders` and `resolve` return. Values may contain themselves, and share parts.

    Raises:
        WeightsError: the pickle is too long or broken, or names something that no weights need.
    """
    if len(pickle) > MAX_PICKLE_BYTES:
        raise WeightsError(
            f"{where}: {len(pickle):,} bytes, expected at most {MAX_PICKLE_BYTES:,}; download the file again"
        )
    return _Machine(where, builders, resolve).run(pickle)


class _Machine:
    """The stack machine: stack, marks, memo, and the instructions that operate on them."""

    def __init__(self, where: str, builders: Mapping[str, Builder], resolve: Builder) -> None:
        self.where = where
        self.builders = builders
        self.resolve = resolve
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> Any:
        """Run all instructions and return the result.

        Raises:
            WeightsError: an instruction or a name is not supported, or there are too many instructions.
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
                raise self._refusal(f"torch does not write the instruction {instruction}")
        raise self._refusal("the pickle has no end")

    def _instructions(self, pickle: bytes) -> Iterator[tuple[str, Any]]:
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                yield opcode.name, argument
        except ValueError as error:
            raise self._refusal(f"not a complete pickle: {' '.join(str(error).split())[:_MAX_SHOWN]}") from error

    def _refusal(self, reason: str) -> WeightsError:
        return WeightsError(f"{self.where}: {reason}; the file is broken or hostile: download it again")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise self._refusal("an instruction needs a value, but the stack is empty")
        return self.stack.pop()

    def _top(self, expected: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], expected):
            raise self._refusal(f"an instruction needs a value of type {expected.__name__} on the stack")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise self._refusal("an instruction needs a mark, but there is none")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def extend(self, items: list[Any]) -> None:
        if not self._is_inert():
            self._top(list).extend(items)

    def _is_inert(self) -> bool:
        """Whether the value on the stack is an object of a class, whose items (as of a list or dictionary) are lost."""
        return bool(self.stack) and isinstance(self.stack[-1], Record)

    def set_items(self, items: list[Any]) -> None:
        if self._is_inert():
            return
        target = self._top(dict)
        if len(items) % 2:
            raise self._refusal("a dictionary key has no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str) and not (isinstance(key, int) and 0 <= key < _MAX_KEY):
                raise self._refusal(
                    f"a dictionary key is neither a string nor a small integer but {type(key).__name__}"
                )
            target[key] = value

    def put(self, number: int) -> None:
        self.memo[number] = self._top(object)

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise self._refusal(f"the memo has no entry {number}")
        self.stack.append(self.memo[number])

    def name(self, path: Any) -> None:
        is_known = path in self.builders or path in INERT or path.startswith((_SCRIPT_PREFIX, *INERT_PACKAGES))
        if not is_known:
            shown = path if path.isprintable() else ascii(path)
            if path.startswith(_UNSUPPORTED_TENSORS):
                raise WeightsError(
                    f"{self.where}: has sparse, quantised, complex or distributed tensors ({shown[:_MAX_SHOWN]}); "
                    "save a full state dict of dense float tensors"
                )
            raise WeightsError(
                f"{self.where}: it names {shown[:_MAX_SHOWN]}, which no weights need; nothing was run: "
                "do not trust the file, or save its state dict alone"
            )
        self.stack.append(Name(path))

    def name_from_stack(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise self._refusal("a name is not a string")
        self.name(f"{module}.{name}")

    def call(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise self._refusal("a call lacks a function or a tuple of arguments")
        builder = self.builders.get(function.path)
        self.stack.append(builder(arguments) if builder else Record(function.path, arguments))

    def set_state(self, _: Any) -> None:
        state = self.pop()
        receiver = self._top(object)
        if isinstance(receiver, Record):
            receiver.state = state
        elif not (isinstance(receiver, dict) and isinstance(state, dict)):  # a state dict's metadata is ignored
            raise self._refusal(f"a {type(receiver).__name__} is given a state")

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
    "BUILD": _Machine.set_state,
    "BINPERSID": _Machine.persistent,
}
