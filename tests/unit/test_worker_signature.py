"""How a handler's signature turns the input into arguments, and how exceptions get their category."""

import dataclasses
from datetime import datetime
from typing import Any, TypedDict

import msgspec
import pytest
from msgspec import Raw

from penstock import Fail, Retry, Task
from penstock.worker._errors import category_of, milliseconds, reason_of
from penstock.worker._invoke import Handler, InvalidInput
from penstock.worker._signals import condition_of


class Mail(msgspec.Struct):
    to: str
    subject: str = "hi"


@dataclasses.dataclass
class Point:
    x: int


class Pair(TypedDict):
    a: int
    b: int


class AnInput:
    """A fake task: only its input is read."""

    def __init__(self, text: str) -> None:
        self.raw_input = Raw(text.encode())


def called(function: Any, text: str = "null") -> Any:
    return Handler("kind", function).call(AnInput(text))


def test_arguments_come_by_name_and_type() -> None:
    def send(to: str, at: datetime, copies: int = 1) -> Any:
        return to, at.year, copies

    assert called(send, '{"to": "a", "at": "2026-01-02T03:04:05Z", "more": 1}') == ("a", 2026, 1)
    assert called(send, '{"copies": 3, "to": "a", "at": "2026-01-02T03:04:05Z"}') == ("a", 2026, 3)


def test_the_task_comes_first_when_asked_for() -> None:
    def with_task(task: Task, to: str) -> Any:
        return task.raw_input, to

    assert called(with_task, '{"to":"a"}') == (Raw(b'{"to":"a"}'), "a")
    assert called(lambda: "nothing asked for", "[1, 2]") == "nothing asked for"


def test_a_first_parameter_named_task_needs_no_annotation() -> None:
    def handler(task, to: str) -> Any:  # type: ignore[no-untyped-def]
        return task.raw_input, to

    def a_field(task: str) -> Any:
        return task

    assert called(handler, '{"to":"a"}') == (Raw(b'{"to":"a"}'), "a")
    assert called(a_field, '{"task":"compile"}') == "compile"


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (Mail, '{"to": "a"}', Mail("a")),
        (Point, '{"x": 1}', Point(1)),
        (Pair, '{"a": 1, "b": 2}', {"a": 1, "b": 2}),
    ],
)
def test_a_single_object_parameter_takes_the_whole_input(annotation: Any, text: str, expected: Any) -> None:
    def handler(value: Any) -> Any:
        return value

    handler.__annotations__["value"] = annotation
    assert called(handler, text) == expected


def test_a_parameter_named_input_takes_the_whole_input() -> None:
    def handler(input: list[int]) -> Any:
        return input

    assert called(handler, "[1, 2]") == [1, 2]


def test_keyword_only_and_rest() -> None:
    def handler(task: Task, /, a: int, *, b: int = 2, **rest: Any) -> Any:
        return a, b, rest

    assert called(handler, '{"a": 1, "c": [3]}') == (1, 2, {"c": [3]})


def test_defaults_cover_an_absent_input() -> None:
    shared: list[int] = [7]

    def handler(values: list[int] = shared) -> Any:
        return values

    assert called(handler) is shared


def test_an_input_that_does_not_fit_names_the_field() -> None:
    def send(to: str, copies: int) -> None: ...

    with pytest.raises(InvalidInput, match="copies"):
        called(send, '{"to": "a", "copies": "many"}')
    with pytest.raises(InvalidInput, match="to"):
        called(send, "{}")


def test_signatures_that_cannot_be_filled_are_refused_at_registration() -> None:
    def positional(a: int, /) -> None: ...
    def stars(*args: int) -> None: ...
    def task_second(a: int, task: Task) -> None: ...

    for function in (positional, stars, task_second):
        with pytest.raises(TypeError, match="cannot be a handler"):
            Handler("kind", function)


def test_async_is_seen() -> None:
    class Service:
        async def __call__(self, to: str) -> str:
            return to

        async def method(self, to: str) -> str:
            return to

    def sync() -> None: ...

    assert Handler("kind", Service()).is_async
    assert Handler("kind", Service().method).is_async
    assert not Handler("kind", sync).is_async


def test_categories() -> None:
    class HTTPStatusError(Exception): ...

    class Own(Exception):
        category = "out_of_stock"

    assert category_of(ValueError("x")) == "value_error"
    assert category_of(HTTPStatusError()) == "http_status_error"
    assert category_of(Own()) == "out_of_stock"
    assert category_of(Fail("no", "bad_card")) == "bad_card"
    assert category_of(Retry()) == "retry"
    assert reason_of(ValueError("no")) == "ValueError: no"
    assert reason_of(ValueError()) == "ValueError"
    assert len(reason_of(ValueError("x" * 9999))) == 4096
    assert milliseconds(0.25) == 250


def test_conditions() -> None:
    assert condition_of(None) is None
    leaf = condition_of("review.*")
    assert leaf is not None and leaf.name == "review.*"
    tree = condition_of({"all_of": [{"name": "a"}, {"count": 2, "of": [{"name": "b"}]}]})
    assert tree is not None and tree.all_of is not None and tree.all_of[1].count == 2
    with pytest.raises(msgspec.ValidationError):
        condition_of({"nmae": "a"})
