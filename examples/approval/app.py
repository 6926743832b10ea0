"""A human approves an expense: an execution waits, a web page shows its input, and a click publishes the signal.

penstock up
pip install starlette uvicorn
python examples/approval/app.py                     # the web page and the worker, on http://127.0.0.1:8000
penstock submit expense.pay '{"who": "ada", "amount": 120}'
penstock watch <execution id>                      # shows the link
"""

import asyncio
import hashlib
import hmac
import html
import os
import secrets
from urllib.parse import parse_qs, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from penstock import Client, Suspend, Task, Worker

SECRET = os.environ.get("APPROVAL_SECRET", "").encode() or secrets.token_bytes(32)
"""Links are signed with this key, so that nobody can make up a link. Set it to keep links valid after a restart."""
FIELDS: tuple[str, ...] = ("execution", "waitpoint", "token")


def link(base: str, execution_id: str, waitpoint_id: str, token: str) -> str:
    """Return the page's address for one approval. Anyone with the link can decide: send it only to the right person."""
    fields = dict(zip(FIELDS, (execution_id, waitpoint_id, token), strict=True))
    return f"{base}/approve?{urlencode({**fields, 'signature': signature(fields)})}"


def signature(fields: dict[str, str]) -> str:
    text = "\n".join(fields[name] for name in FIELDS)
    return hmac.new(SECRET, text.encode(), hashlib.sha256).hexdigest()


def read(query: str) -> dict[str, str] | None:
    """Return the fields of a link if its signature is ours, else None."""
    found = {name: values[0] for name, values in parse_qs(query).items()}
    if not {*FIELDS, "signature"} <= found.keys():
        return None
    true = hmac.compare_digest(found.pop("signature"), signature(found))
    return found if true else None


def work(worker: Worker, base: str) -> None:
    """Register the handler, which asks for approval and runs again after the decision."""

    @worker.handler("expense.pay")
    async def pay(task: Task, who: str, amount: int) -> str:
        if not task.resumed:
            # Create the waitpoint before suspending: if the worker dies in between, the same key returns the same one.
            waitpoint = await task.create_waitpoint("approval")
            address = link(base, task.execution_id, waitpoint.waitpoint_id, waitpoint.token)
            await task.append_frame("link", address)
            raise Suspend("decided", waitpoint=waitpoint, timeout=7 * 86_400, timeout_behavior="cancel")
        [decision, *_] = await task.resumed_by()
        return f"{amount} for {who}: {decision.payload['decision']}"


def app(client: Client) -> Starlette:
    """Build the web page. It holds no state: it reads executions from Penstock and sends decisions there."""

    async def show(request: Request) -> Response:
        if (fields := read(request.url.query)) is None:
            return PlainTextResponse("this link is not one of ours", 403)
        record = await client.get(fields["execution"])
        if record.state != "suspended":
            return PlainTextResponse(f"nothing is to be decided any more: it is {record.state}", 410)
        about = html.escape(f"{record.input['amount']} for {record.input['who']}")
        return HTMLResponse(
            f"<h1>Approve?</h1><p>{about}</p><form method=post>"
            "<button name=decision value=approved>Approve</button>"
            "<button name=decision value=refused>Refuse</button></form>"
        )

    async def decide(request: Request) -> Response:
        if (fields := read(request.url.query)) is None:
            return PlainTextResponse("this link is not one of ours", 403)
        decision = parse_qs((await request.body()).decode()).get("decision", [""])[0]
        if decision not in ("approved", "refused"):
            return PlainTextResponse("decide: approved or refused", 400)
        # The signal id is the same for each click, so that only the first click counts.
        await client.publish_signal(
            fields["waitpoint"],
            "decided",
            fields["token"],
            {"decision": decision},
            signal_id=f"{fields['waitpoint']}-decided",
        )
        return PlainTextResponse(f"{decision}, thank you")

    return Starlette(
        routes=[
            Route("/approve", show, methods=["GET"]),
            Route("/approve", decide, methods=["POST"]),
        ]
    )


async def main(nats_url: str = "nats://127.0.0.1:4222", port: int = 8000) -> None:
    async with await Client.connect(nats_url) as client:
        worker = Worker(nats_url)
        work(worker, f"http://127.0.0.1:{port}")
        server = uvicorn.Server(uvicorn.Config(app(client), port=port, log_level="warning"))
        await asyncio.gather(server.serve(), worker.run(handle_signals=False))


if __name__ == "__main__":
    asyncio.run(main(os.environ.get("PENSTOCK_NATS_URL", "nats://127.0.0.1:4222")))
