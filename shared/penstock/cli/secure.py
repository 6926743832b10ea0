"""`penstock secure`: users, permissions and certificates for a deployment."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from penstock.cli.output import emit_json
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import DEFAULT_ROOT, ShellArgument

Names = Annotated[list[str], Parameter(negative="")]


def secure(
    directory: Path,
    /,
    *,
    worker: Names = [],  # noqa: B006 - cyclopts copies it
    submitter: Names = [],  # noqa: B006
    signal_publisher: Names = [],  # noqa: B006
    observation_publisher: Names = [],  # noqa: B006
    event_publisher: Names = [],  # noqa: B006
    publisher: Names = [],  # noqa: B006
    operator: Names = [],  # noqa: B006
    viewer: Names = [],  # noqa: B006
    auditor: Names = [],  # noqa: B006
    gateway: Names = [],  # noqa: B006
    rotate: Names = [],  # noqa: B006
    host: Names = [],  # noqa: B006
    stream: Names = [],  # noqa: B006
    valkey: str | None = None,
    shell: ShellArgument,
) -> None:
    """Write what a secured deployment needs into a directory; `penstock up --secure DIRECTORY` runs with it.

    Users with their keys and permissions for NATS, a user of Valkey for each service, TLS certificates of an
    authority of its own, and the key of waitpoint tokens. A second run keeps what is there and adds what is
    missing. Without any user, the first run makes one for each role, named as the role is. docs/security.md says
    what each role may do. --nats and --root, before `secure`, name the address and the root of the deployment.

    Parameters
    ----------
    directory
        Where everything is written; open to its owner only.
    worker
        NAME or NAME=LANE,LANE: a worker, bound to these lanes. This and the following may be given several times.
    submitter
        NAME: starts executions, flows and schedules.
    signal_publisher
        NAME: sends signals to waitpoints whose token it has.
    observation_publisher
        NAME: tells of steps of mirrored flows.
    event_publisher
        NAME: publishes events that flows wait for.
    publisher
        NAME=SUBJECT,SUBJECT: publishes messages of your own that mirror rules and triggers may follow.
    operator
        NAME: sees and changes everything but what workers hold, and the audit stream.
    viewer
        NAME: sees what operators see, and changes nothing.
    auditor
        NAME: reads the audit trail.
    gateway
        NAME: the HTTP gateway, whose bearer tokens have roles of their own.
    rotate
        NAME of a user or a service: it gets a new key.
    host
        A name or an address by which the servers are reached, for their certificates.
    stream
        STREAM=SUBJECT: a JetStream stream of your own that mirror rules and triggers may follow.
    valkey
        Where services reach Valkey, for their settings: rediss://host:port/0 or rediss+cluster://host:port,host:port.
    """
    if find_spec("cryptography") is None:
        raise Problem("penstock secure needs more: pip install 'penstock[secure]'")
    from penstock.secure import wishes
    from penstock.secure.folder import Folder
    from penstock.secure.writing import write

    asked: dict[Any, list[str]] = {
        "worker": worker,
        "submitter": submitter,
        "signal-publisher": signal_publisher,
        "observation-publisher": observation_publisher,
        "event-publisher": event_publisher,
        "publisher": publisher,
        "operator": operator,
        "viewer": viewer,
        "auditor": auditor,
        "gateway": gateway,
    }
    folder = Folder(directory)
    try:
        wanted = [wishes.wanted(role, text) for role, texts in asked.items() for text in texts]
        before = (
            folder.deployment()
            if folder.exists()
            else wishes.Deployment(root=shell.named_root or DEFAULT_ROOT)
        )
        deployment = wishes.changed(
            before, root=shell.named_root, nats_url=shell.nats, valkey_url=valkey, hosts=host, streams=stream
        )
        if not wanted and not folder.users():
            wanted = [wishes.wanted(role, role) for role in asked if role != "publisher"]
        news = write(folder, deployment, wanted, rotate)
    except wishes.SecureError as error:
        raise UsageProblem(str(error)) from None
    except OSError as error:
        raise Problem(f"cannot write {error.filename or directory}: {error.strerror}") from None
    if shell.json:
        emit_json({"directory": str(folder.path), "written": news})
        return
    for line in news:
        shell.console.print(f"[green]+[/] {line}", highlight=False)
    users = ", ".join(f"{user.name} ({user.role})" for user in folder.users())
    shell.console.print(
        f"[dim]{folder.path}: root {deployment.root}; {users}[/]", highlight=False, soft_wrap=True
    )
