"""Steps: functions that run once, whose results are journaled, with retries that outlive their worker."""

import functools
import inspect
import logging
import typing
from collections.abc import Callable
from typing import Any, Final, Literal, NoReturn

import msgspec

from penstock import errors
from penstock.bus.payloads import raw_of
from penstock.messages.common import readable
from penstock.messages.journal import Entry, EntryError, NewEntry
from penstock.worker._errors import Fail, Retry, category_of, milliseconds, reason_of, text_of
from penstock.worker.durable.branches import inside_step
from penstock.worker.durable.errors import (
    JournalFull,
    NestedStep,
    StepCanceled,
    StepFailed,
    StepInDoubt,
    TaskSuspended,
    name_in,
)
from penstock.worker.durable.identity import code_of, digest_of
from penstock.worker.durable.journal import ENDED
from penstock.worker.durable.retries import Retries
from penstock.worker.durable.run import DurableRun

log: Final = logging.getLogger("penstock.worker")

OnChange = Literal["reuse", "fail", "rerun"]


class Step:
    """One call of `task.step`."""

    __slots__ = (
        "args",
        "code",
        "digest",
        "function",
        "key",
        "kind",
        "name",
        "on_change",
        "once",
        "retries",
        "type",
    )

    def __init__(
        self,
        key: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        retries: Retries,
        *,
        once: bool = False,
        on_change: OnChange = "reuse",
        type: Any = None,
        digests: bool = True,
    ) -> None:
        if not callable(function):
            if inspect.iscoroutine(function):
                function.close()
            raise TypeError(
                f"{key}: give the function and its arguments, as in task.step('charge', charge, order), "
                f"not what it returned: {function!r}"
            )
        if on_change not in ("reuse", "fail", "rerun"):
            raise ValueError(f"{key}: on_change is reuse, fail or rerun, not {on_change!r}")
        self.key = key
        self.kind = key.partition(":")[0]
        self.function, self.args = function, args
        self.retries, self.once = retries, once
        self.name = name_in(key)
        self.on_change: OnChange = on_change
        self.type = return_type(function) if type is None else type
        self.code = code_of(function)
        self.digest = digest_of(function, args) if digests else None

    def differs(self, entry: Entry) -> bool:
        """Whether the entry was made by another function, or with other arguments."""
        return (entry.code is not None and entry.code != self.code) or (
            None not in (entry.input_digest, self.digest) and entry.input_digest != self.digest
        )

    def entry(self, status: Any, attempt: int, **more: Any) -> NewEntry:
        return NewEntry(
            key=self.key,
            kind=self.kind,
            name=self.name,
            status=status,
            attempt=attempt,
            code=self.code,
            input_digest=self.digest,
            **more,
        )


async def run_step(run: DurableRun, step: Step) -> Any:
    """Return a step's result: from the journal, or by running it. Raise `StepFailed` or `StepInDoubt`."""
    undo = step.kind == "undo"
    entry = await run.ask(step.key, undo=undo)
    if entry is not None and step.differs(entry):
        entry = await _changed(run, step, entry)
    if entry is not None and entry.status == "started":
        raise StepInDoubt(step.key)
    while True:
        if entry is not None:
            if entry.status in ENDED:
                return outcome_of(entry, step.type)
            await run.waits.wait(step.key, None, entry)  # until it is time for the next try
        tries = 1 if entry is None else entry.attempt + 1
        if step.once:
            with run.running():
                await run.append(step.entry("started", tries))
        try:
            with run.running():
                value = await _call(run, step)
                return await _store(run, step, tries, value)
        except (NestedStep, JournalFull, StepFailed):
            raise
        except Exception as error:
            if run.over:
                raise TaskSuspended(f"the lease is lost ({run.lease.lost})") from None
            entry = await _failed(run, step, tries, error)


async def _call(run: DurableRun, step: Step) -> Any:
    if run.options.on_step is not None:
        run.options.on_step(run.execution_id, step.key)
    with inside_step(step.key):
        if is_async(step.function):
            return await step.function(*step.args)
        value = await run.options.threads.run(functools.partial(step.function, *step.args))
        return await value if inspect.isawaitable(value) else value


async def _store(run: DurableRun, step: Step, tries: int, value: Any) -> Any:
    """Journal a result. Return it as every later run will see it."""
    try:
        raw = raw_of(value)
        result = msgspec.json.decode(raw, type=step.type)
    except Exception as error:
        await _give_up(run, step, tries, error, f"its result cannot be journaled: {error}", "invalid_result")
    try:
        stored = await run.append(step.entry("done", tries, raw_result=raw))
    except errors.InvalidError as error:  # too large, or nested too deeply
        await _give_up(run, step, tries, error, f"its result cannot be journaled: {error}", "invalid_result")
    if stored.outcome == "exists" and stored.entry is not None:
        return outcome_of(stored.entry, step.type)
    return result


async def _failed(run: DurableRun, step: Step, tries: int, error: Exception) -> Entry:
    """Journal a failed try. Return the entry to wait for until the next try, or raise `StepFailed`."""
    if isinstance(error, Fail) or tries >= step.retries.max:
        reason = error.reason if isinstance(error, Fail) else reason_of(error)
        await _give_up(run, step, tries, error, reason, category_of(error))
    after = error.after if isinstance(error, Retry) else None
    delay_ms = step.retries.delay_ms(tries) if after is None else max(0, milliseconds(after))
    log.info(
        "%s %s: try %d failed, next in %d ms: %s",
        run.execution_id,
        step.key,
        tries,
        delay_ms,
        reason_of(error),
    )
    told = EntryError(category=category_of(error), reason=reason_of(error), type=type(error).__name__[:256])
    with run.running():
        stored = await run.append(step.entry("retry", tries, error=told, delay_ms=delay_ms))
    return stored.entry or run.waiting(step.key, step.kind, "retry", tries, delay_ms)


async def _give_up(
    run: DurableRun, step: Step, tries: int, error: Exception, reason: str, category: str
) -> NoReturn:
    """Journal that a step has failed for good, and raise that."""
    told = EntryError(category=category, reason=text_of(reason), type=type(error).__name__[:256])
    with run.running():
        stored = await run.append(step.entry("failed", tries, error=told))
    failure = StepFailed(step.key, category, told.reason, told.type)
    if stored.outcome == "exists" and stored.entry is not None and stored.entry.status == "failed":
        outcome_of(stored.entry, step.type)
    raise failure from error


async def _changed(run: DurableRun, step: Step, entry: Entry) -> Entry | None:
    """Do what `on_change` says for an entry of another function or other arguments. Return the entry that counts."""
    text = f"{step.key} was journaled by another function or with other arguments than this code's"
    run.journal.note_drift(step.key)
    if step.on_change == "fail":
        await run.hold(
            "journal_mismatch",
            step.key,
            f"{text} (code {entry.code} → {step.code}, input {entry.input_digest} → {step.digest}). "
            "Deploy code that fits and resume the execution, or fork it before this step.",
        )
    log.warning("%s: %s; on_change=%s", run.execution_id, text, step.on_change)
    if step.on_change == "rerun":
        # An entry that has ended never changes. The step runs under a key that belongs to this code and input.
        step.key += f"~{step.code[:8]}{(step.digest or '')[:8]}"
        return await run.ask(step.key)
    return entry


def outcome_of(entry: Entry, type: Any) -> Any:
    """Return an ended entry's result, decoded to `type`, or raise its failure."""
    if entry.status == "canceled":
        raise StepCanceled(entry.key)
    if entry.status == "failed":
        told = entry.error or {}
        raise StepFailed(
            entry.key, told.get("category") or "error", told.get("reason") or "", told.get("type")
        )
    try:
        return msgspec.json.decode(readable(entry, "raw_result"), type=type)
    except msgspec.MsgspecError as error:
        raise StepFailed(
            entry.key, "invalid_result", f"its journaled result does not fit the type {type}: {error}"
        ) from None


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether calling a function gives an awaitable at once, so that it needs no thread."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


@functools.lru_cache(maxsize=4096)
def _annotated(function: Callable[..., Any]) -> Any:
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        found = typing.get_type_hints(target, include_extras=True).get("return", Any)
        msgspec.json.Decoder(found)
    except Exception:  # a name that is imported for type checkers only, or a type that msgspec does not know
        return Any
    return found


def return_type(function: Callable[..., Any]) -> Any:
    """Return the type that a function says it returns, or `Any`. It is what journaled results are decoded to."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return _annotated(inspect.unwrap(function))
    except TypeError:  # it cannot be hashed
        return Any
