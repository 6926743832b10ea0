"""schemathesis against the gateway: requests made from its OpenAPI description, and answers checked against it."""

import asyncio
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from http_gateway import gateway_of
from running_penstock import RunningPenstock

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# An answer to these waits for an event, or does not end.
WAIT = {"/v1/execution/execute", "/v1/execution/wait", "/v1/work/next", "/v1/events"}
PHASES = [Phase.generate]


async def test_answers_are_as_described(penstock: RunningPenstock, tmp_path: Path) -> None:
    async with gateway_of(penstock, tmp_path) as gateway:
        asked = await asyncio.to_thread(_explore, gateway.url, gateway.headers("operator"))
        assert gateway.process.returncode is None and "a request failed" not in gateway.log
    assert len(asked) > 90


def _explore(url: str, headers: dict[str, str]) -> set[str]:
    """Send a few requests to each path. Return the paths."""
    schema = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    asked: set[str] = set()
    for operation in operations:
        if operation.path in WAIT:
            continue

        @given(operation.as_strategy())
        @settings(
            max_examples=2,
            deadline=None,
            database=None,
            derandomize=True,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS)

        ask()
        asked.add(operation.path)
    return asked
