"""`replay_check`: what a handler would do with an execution whose journal is at hand. It needs no servers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from penstock.messages.common import Record
from penstock.messages.journal import Entry
from penstock.worker._invoke import Handler
from penstock.worker.durable.replay import PATIENCE_S, Replay, replay

T = TypeVar("T")

_PLAIN: dict[str, Any] = {
    "execution_id": "00000000-0000-7000-8000-000000000000",
    "namespace": "default",
    "kind": "replay",
    "lane": "default",
    "priority": 0,
    "state": "suspended",
}


async def replay_check(
    handler: Callable[..., Any],
    journal: Iterable[Entry | Mapping[str, Any]],
    record: Record | Mapping[str, Any] | None = None,
    *,
    context: Any = None,
    patience: float = PATIENCE_S,
) -> Replay:
    """Run a handler over a stored journal: no step's function is run, and nothing is written.

    `journal`: what `client.journals.read` yields, or the `items` of `penstock journal ID --json`. `record`: what
    `client.get` returns, or `penstock get ID --json` prints, for the input, and for an execution that has ended its
    outcome; of a mapping, what is left out is that of a suspended execution without input. `context`: the handler's
    `task.context`. `patience`: how many seconds the handler may take.

    `assert not (await replay_check(order, journal, record)).differs`. docs/testing.md says what is a difference.
    Raises `msgspec.ValidationError` if journal or record have another form.
    """
    if not isinstance(record, Record):
        record = _made(_PLAIN | dict(record or {}), Record)
    entries = [each if isinstance(each, Entry) else _made(each, Entry) for each in journal]
    return await replay(Handler(record.kind, handler), record, entries, context=context, patience=patience)


def _made(fields: Mapping[str, Any], form: type[T]) -> T:
    return msgspec.json.decode(msgspec.json.encode(fields), type=form)
