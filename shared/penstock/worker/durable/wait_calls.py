"""The durable calls that wait: for a time, for signals, for an event."""

from datetime import datetime
from typing import Any, TypeVar, overload

from penstock.worker._errors import ConditionLike, Duration
from penstock.worker._signals import Signal
from penstock.worker.durable import timing
from penstock.worker.durable.operation import Operation
from penstock.worker.durable.run import DurableRun, InRun
from penstock.worker.durable.timing import MISSING

D = TypeVar("D")


class WaitCalls(InRun):
    """The waits of `DurableCalls`."""

    __slots__ = ()

    def sleep(self, name: str, time: Duration | datetime, /, *, key: object = None) -> Operation[None]:
        """Wait for a time (seconds, a timedelta), or until a datetime that has a time zone.

        The time counts from the first call: a run that comes here again waits only for what is left. Longer waits than
        the handler's `keep_warm` (2 s) hold no lease and no memory of a worker.
        """
        run = self._durable_run()
        made = run.key(f"sleep({name!r})", "sleep", name, key)
        at = timing.when(made, time)
        return Operation(made, lambda: timing.sleep(run, made, at), named=key is None, bare=True)

    @overload
    def wait_signal(
        self,
        name: str,
        /,
        *,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[Signal]: ...

    @overload
    def wait_signal(
        self,
        name: str,
        /,
        *,
        default: D,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[Signal | D]: ...

    def wait_signal(
        self,
        name: str,
        /,
        *,
        default: Any = MISSING,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[Any]:
        """Wait for a signal called `name` (`review.*` is any that begins so), and return it. Earlier ones count too.

        After `timeout` return `default`, or raise `SignalTimeout` without one. The signal goes to the waitpoint with
        the key `waitpoint`, by default the wait's name and key. `create_waitpoint` with that key, before, gives a
        token for it.
        """
        run, made, new = self._signal_wait("wait_signal", name, key, None, waitpoint, timeout)
        return Operation(
            made, lambda: timing.wait_signal(run, made, new, default), named=key is None, bare=True
        )

    @overload
    def wait_signals(
        self,
        name: str,
        condition: ConditionLike,
        /,
        *,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[list[Signal]]: ...

    @overload
    def wait_signals(
        self,
        name: str,
        condition: ConditionLike,
        /,
        *,
        default: D,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[list[Signal] | D]: ...

    def wait_signals(
        self,
        name: str,
        condition: ConditionLike,
        /,
        *,
        default: Any = MISSING,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[Any]:
        """Wait until signals meet a condition (as in `Suspend`), and return them. The rest is as in `wait_signal`."""
        run, made, new = self._signal_wait("wait_signals", name, key, condition, waitpoint, timeout)
        return Operation(
            made, lambda: timing.wait_signals(run, made, new, default), named=key is None, bare=True
        )

    @overload
    def wait_event(
        self, topic: str, correlation_id: str, /, *, key: object = None, timeout: Duration | None = None
    ) -> Operation[Signal]: ...

    @overload
    def wait_event(
        self,
        topic: str,
        correlation_id: str,
        /,
        *,
        default: D,
        key: object = None,
        timeout: Duration | None = None,
    ) -> Operation[Signal | D]: ...

    def wait_event(
        self,
        topic: str,
        correlation_id: str,
        /,
        *,
        default: Any = MISSING,
        key: object = None,
        timeout: Duration | None = None,
    ) -> Operation[Any]:
        """Wait for an event that is published on `penstock.event.<topic>` with this correlation id, and return it.

        Its body is the `payload`, and its topic the `name`. One that came before counts too, as long as it is kept
        (`PENSTOCK_EVENT_TTL_MS`, an hour). Each event ends one wait of an execution. The rest is as in `wait_signal`.
        """
        run = self._durable_run()
        made = run.key(f"wait_event({topic!r})", "event", topic, key)
        new = timing.event_entry(made, topic, correlation_id, key, timeout)
        return Operation(
            made, lambda: timing.wait_signal(run, made, new, default), named=key is None, bare=True
        )

    def _signal_wait(
        self,
        call: str,
        name: str,
        key: object,
        condition: ConditionLike,
        waitpoint: str | None,
        timeout: Duration | None,
    ) -> tuple[DurableRun, str, Any]:
        run = self._durable_run()
        made = run.key(f"{call}({name!r})", "signal", name, key)
        return run, made, timing.signal_entry(made, name, key, condition, waitpoint, timeout)
