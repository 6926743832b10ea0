"""Publishes a signal, an observation or an event to Penstock with nats-py only (see docs/publishing.md)."""

import asyncio
import sys

import nats

ROOT = "penstock"


def message(kind: str, *args: str) -> tuple[str, dict[str, str], str]:
    """Return subject, headers and body. A `Nats-Msg-Id` made of the message's content makes repeats harmless."""
    match kind, *args:
        case "signal", waitpoint, name, token, *body:
            headers = {"Penstock-Token": token, "Nats-Msg-Id": f"{waitpoint}-{name}"}
            return f"signal.{waitpoint}.{name}", headers, "".join(body)
        case "observation", flow, run, task, status:
            body = f'{{"run_id": "{run}", "task": "{task}", "status": "{status}"}}'
            return f"observation.{flow}", {"Nats-Msg-Id": f"{run}-{task}-{status}"}, body
        case "event", topic, correlation, *body:
            headers = {"Penstock-Correlation-Id": correlation, "Nats-Msg-Id": f"{topic}-{correlation}"}
            return f"event.{topic}", headers, "".join(body)
        case _:
            raise SystemExit("publish.py URL signal|observation|event …")


async def main(url: str, kind: str, *args: str, root: str = ROOT) -> None:
    subject, headers, body = message(kind, *args)
    connection = await nats.connect(url)
    try:
        await connection.jetstream().publish(f"{root}.{subject}", body.encode(), headers=headers)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
