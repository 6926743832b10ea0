"""Turns a Python function into a handler. The function's signature says how the input becomes arguments.

- A first parameter annotated `Task`, or named `task` without an annotation, gets the task. In a sync function it may be
  annotated `SyncTask`: then the durable calls block.
- If one parameter remains, and it is a Struct, dataclass, TypedDict or NamedTuple, or is named `input`,
  it gets the whole input.
- Otherwise each parameter gets the input field with its name, converted to its annotation. Fields without
  a parameter are ignored, or go to `**rest` if there is one.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Raw

from penstock.messages.workers import Schema
from penstock.worker._task import Task
from penstock.worker.durable.run import DurableOptions
from penstock.worker.durable.sync import SyncTask

Arguments = Callable[[Raw], dict[str, Any]]

_EMPTY: Final = inspect.Parameter.empty
_LONGEST_SCHEMA: Final = 64 * 1024
_LONGEST_DESCRIPTION: Final = 1024


class InvalidInput(ValueError):
    """The input does not fit the handler's parameters."""

    category = "invalid_input"


class Handler:
    """One registered function, ready to be called with a task."""

    __slots__ = ("_arguments", "_input", "_takes_task", "function", "is_async", "kind", "options")

    def __init__(
        self, kind: str, function: Callable[..., Any], options: DurableOptions | None = None
    ) -> None:
        self.kind = kind
        self.function = function
        self.options = options or DurableOptions()
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
        )
        self._takes_task, self._arguments, self._input = _read(function)
        if self._takes_task is SyncTask and self.is_async:
            _refuse(
                function, "an async function takes a Task: the calls of a SyncTask would block the event loop"
            )

    @property
    def kinds(self) -> list[str]:
        """What the worker asks work for: the kind, and each version of it that this handler takes."""
        return [self.kind, *(f"{self.kind}@{version}" for version in self.options.accepts)]

    def schema(self) -> Schema:
        """Return the JSON Schema of the input, as the type hints say it, and the first line of the docstring."""
        try:
            schema = None if self._input is Any else msgspec.json.schema(self._input)
            if len(msgspec.json.encode(schema)) > _LONGEST_SCHEMA:
                schema = None
        except (TypeError, ValueError):  # a type hint, or a default value, that JSON Schema cannot tell
            schema = None
        told = (inspect.getdoc(self.function) or "").partition("\n")[0]
        return Schema(input=schema, description=told[:_LONGEST_DESCRIPTION])

    def bind(self, task: Task) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments for this task. Raise `InvalidInput` if the input does not fit them."""
        positional = (
            () if not self._takes_task else (SyncTask(task) if self._takes_task is SyncTask else task,)
        )
        if self._arguments is None:
            return positional, {}
        try:
            return positional, self._arguments(task.raw_input)
        except msgspec.MsgspecError as error:
            raise InvalidInput(f"the input does not fit the handler of {self.kind}: {error}") from None

    def call(self, task: Task) -> Any:
        """Call the function. An async one returns its awaitable. Raise `InvalidInput` if the input does not fit."""
        positional, named = self.bind(task)
        return self.function(*positional, **named)


TaskType = type[Task] | type[SyncTask] | None


def _read(function: Callable[..., Any]) -> tuple[TaskType, Arguments | None, Any]:
    """Return as what the function takes the task, if it does, how the input becomes its other arguments, and the
    input's type.
    """
    parameters = list(inspect.signature(function).parameters.values())
    target = function if inspect.isroutine(function) else type(function).__call__
    hints = typing.get_type_hints(target, include_extras=True)
    takes_task = _task_type(parameters[0], hints) if parameters else None
    if takes_task is not None:
        parameters = parameters[1:]
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            _refuse(function, f"parameter {parameter.name!r} cannot be filled by name")
        if hints.get(parameter.name) in (Task, SyncTask):
            _refuse(function, "the Task comes first")
    if not parameters:
        return takes_task, None, Any
    if len(parameters) == 1 and parameters[0].kind is not parameters[0].VAR_KEYWORD:
        only = parameters[0]
        annotation: Any = hints.get(only.name, Any)
        if only.name == "input" or _is_whole(annotation):
            return takes_task, _whole(only.name, annotation), Any if annotation is Raw else annotation
    return takes_task, *_by_name(parameters, hints)


def _task_type(first: inspect.Parameter, hints: dict[str, Any]) -> TaskType:
    # `def handler(task)` means the task. To get an input field named `task`, annotate the parameter.
    hint = hints.get(first.name, Task if first.name == "task" else None)
    return hint if hint is Task or hint is SyncTask else None


def _refuse(function: Callable[..., Any], why: str) -> NoReturn:
    raise TypeError(f"{getattr(function, '__qualname__', function)!s} cannot be a handler: {why}")


def _is_whole(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _is_whole(typing.get_args(annotation)[0])
    cls: Any = origin or annotation
    if not isinstance(cls, type):
        return False
    named_tuple = hasattr(annotation, "_fields")
    struct = issubclass(cls, msgspec.Struct)  # pyright: ignore[reportUnknownArgumentType]
    return struct or named_tuple or dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation)


def _whole(name: str, annotation: Any) -> Arguments:
    if annotation is Raw:
        return lambda raw: {name: raw}
    decode = msgspec.json.Decoder(annotation).decode
    return lambda raw: {name: decode(raw)}


def _by_name(parameters: list[inspect.Parameter], hints: dict[str, Any]) -> tuple[Arguments, Any]:
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    fields: list[Any] = []
    for parameter in named:
        annotation = hints.get(parameter.name, Any)
        if parameter.default is _EMPTY:
            fields.append((parameter.name, annotation))
        elif isinstance(parameter.default, _PLAIN):
            fields.append((parameter.name, annotation, parameter.default))  # the schema shows it
        else:
            # Use the same default object as a plain call of the function would, not a copy.
            default = msgspec.field(default_factory=lambda value=parameter.default: value)
            fields.append((parameter.name, annotation, default))
    input_type = msgspec.defstruct("Input", fields, kw_only=True)
    decode = msgspec.json.Decoder(input_type).decode
    names = tuple(p.name for p in named)

    def arguments(raw: Raw) -> dict[str, Any]:
        # An execution created without input has the input `null`.
        value = decode(b"{}" if raw == _NULL else raw)
        return {name: getattr(value, name) for name in names}

    if len(named) == len(parameters):
        return arguments, input_type
    decode_object = msgspec.json.Decoder(dict[str, Any]).decode

    def with_rest(raw: Raw) -> dict[str, Any]:
        return (decode_object(raw) if raw != _NULL else {}) | arguments(raw)

    return with_rest, input_type


_NULL: Final = Raw(b"null")
_PLAIN: Final = (str, int, float, bool, type(None))
