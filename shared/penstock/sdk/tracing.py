"""OpenTelemetry spans of submits and attempts (docs/tracing.md).

A submit's span is a PRODUCER span. Its context travels with the execution, as a W3C traceparent, and each attempt has a
CONSUMER span whose parent it is. The semantic conventions for messaging ask for a link to that context, and allow it as
the parent where a span is about a single message, as here:
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

import asyncio
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from penstock import __version__
from penstock.errors import PenstockError
from penstock.messages.control import ExecutionReplay
from penstock.messages.executions import ExecutionCreate
from penstock.messages.flows import FlowAddExecution, FlowCreate
from penstock.messages.leases import LeaseComplete, LeaseFail, TaskMessage

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Ended = Callable[["asyncio.Future[Any]"], None]
Creating = ExecutionCreate | ExecutionReplay | FlowCreate | FlowAddExecution

_SUBMITS: Final = frozenset(
    {"execution.create", "execution.execute", "execution.replay", "flow.create", "flow.add_execution"}
)
_OUTCOMES: Final = frozenset(
    {
        "lease.complete",
        "lease.fail",
        "lease.cancel",
        "lease.delay",
        "lease.await_children",
        "lease.release",
        "lease.suspend",
    }
)
# The span of the attempt that runs here. The current span may be another one, which the handler has started.
_attempt: "ContextVar[Span]" = ContextVar("penstock_attempt")


def tracing() -> "Tracing | None":
    """Return the tracing of a new client or worker, or None if no tracer provider is configured.

    OpenTelemetry is not imported here: whoever configured a provider has imported it.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return Tracing()


class Tracing:
    """Makes the spans of one client or worker."""

    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._no_context = Context()
        self._w3c = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("penstock", __version__)

    def sends(self, verb: str, request: Any) -> Ended | None:
        """Prepare a request before it is sent. Return what is to be called with its reply, or None."""
        if verb in _SUBMITS and request.traceparent is None:
            return self._submits(request)
        if verb in _OUTCOMES:
            return self._ends(request)
        return None

    @contextmanager
    def attempt(self, task: TaskMessage) -> Generator[None]:
        """Make the span of an attempt. It is the current span inside, and it gets the attempt's outcome."""
        trace = self._trace
        context, links = self._no_context, list[trace.Link]()
        if task.traceparent is not None:
            context = self._w3c.extract({"traceparent": task.traceparent}, context)
            links.append(trace.Link(trace.get_current_span(context).get_span_context()))
        attributes = {
            **_about("attempt", "process", task.lane),
            "messaging.message.id": task.execution_id,
            "penstock.execution_id": task.execution_id,
            "penstock.kind": task.kind,
            "penstock.attempt": task.attempt_index,
            "penstock.resumed": task.resumed,
        }
        with self._tracer.start_as_current_span(
            f"attempt {task.kind}", context, trace.SpanKind.CONSUMER, attributes, links
        ) as span:
            _attempt.set(span)
            yield

    def raised(self, error: BaseException) -> None:
        """Note what the handler of the attempt that runs here has raised."""
        _attempt.get().record_exception(error)

    def lost(self, why: str) -> None:
        """Note that the attempt that runs here has no outcome, because its lease was lost."""
        _attempt.get().set_attribute("penstock.outcome", why)

    def _submits(self, request: Creating) -> Ended:
        """Begin the span of a submit and put its context into the request."""
        trace = self._trace
        if isinstance(request, ExecutionCreate):
            name = f"submit {request.kind}"
            attributes = {**_about("submit", "send", request.lane), "penstock.kind": request.kind}
        elif isinstance(request, ExecutionReplay):
            name, attributes = "replay", _about("replay", "send")
            attributes["penstock.replay_of"] = request.execution_id
        else:
            name, attributes = "submit flow", _about("submit", "send")
            attributes["messaging.batch.message_count"] = len(request.members)
        span = self._tracer.start_span(name, kind=trace.SpanKind.PRODUCER, attributes=attributes)
        request.traceparent = self._traceparent(span)

        def ended(reply: "asyncio.Future[Any]") -> None:
            if self._succeeded(span, reply):
                made = reply.result()
                for id in ("execution_id", "flow_id"):
                    if (value := getattr(made, id, None)) is not None:
                        span.set_attribute(f"penstock.{id}", value)
                if (execution_id := getattr(made, "execution_id", None)) is not None:
                    span.set_attribute("messaging.message.id", execution_id)
                if made.duplicate:
                    span.set_attribute("penstock.duplicate", True)
            span.end()

        return ended

    def _ends(self, request: Any) -> Ended | None:
        """Let the attempt's span get the outcome, once a service has applied it."""
        span = _attempt.get(None)
        if span is None:
            return None
        if isinstance(request, LeaseComplete):
            for child in request.children:
                child.traceparent = child.traceparent or self._traceparent(self._trace.get_current_span())

        def ended(reply: "asyncio.Future[Any]") -> None:
            if reply.cancelled() or reply.exception() is not None:
                return  # it is sent again, or another outcome is
            applied = reply.result()
            span.set_attribute("penstock.outcome", getattr(applied, "outcome", None) or applied.state)
            if isinstance(request, LeaseFail) and request.category != "canceled":
                span.set_attribute("error.type", request.category)
                span.set_status(self._trace.StatusCode.ERROR, request.reason)

        return ended

    def _succeeded(self, span: "Span", reply: "asyncio.Future[Any]") -> bool:
        if reply.cancelled():
            return False
        error = reply.exception()
        if error is not None:
            span.set_attribute(
                "error.type", error.code if isinstance(error, PenstockError) else type(error).__name__
            )
            span.set_status(self._trace.StatusCode.ERROR, str(error))
        return error is None

    def _traceparent(self, span: "Span") -> str | None:
        carrier: dict[str, str] = {}
        self._w3c.inject(carrier, self._trace.set_span_in_context(span, self._no_context))
        return carrier.get("traceparent")


def _about(operation: str, kind: str, lane: str | None = None) -> dict[str, Any]:
    """Return the attributes of the messaging conventions. A lane is what they call a destination."""
    about = {
        "messaging.system": "penstock",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
    }
    return about if lane is None else {**about, "messaging.destination.name": lane, "penstock.lane": lane}
