"""The `penstock` command: global options, the registration of commands, and exit codes on errors."""

import asyncio
import inspect
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

if find_spec("cyclopts") is None or find_spec("rich") is None:
    sys.exit("penstock: the command needs more than the SDK does: pip install 'penstock[cli]'")

from cyclopts import App, Group, Parameter
from cyclopts.validators import Number

from penstock import PenstockError, __version__
from penstock.cli import (
    asyncapi,
    audit,
    audit_export,
    audit_rewound,
    backup,
    bulk,
    changes,
    dead,
    doctor,
    executions,
    flows,
    journals,
    lanes,
    limits,
    mirror,
    replays,
    schedules,
    search,
    secure,
    steering,
    top,
    trigger,
    waitpoints,
    watch,
    workers,
)
from penstock.cli import console as console_command
from penstock.cli.output import Status, emit_json
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import DEFAULT_ROOT, STDIN, Shell, ShellArgument, consoles
from penstock.local.data_dir import DEFAULT
from penstock.verbs import SERVICES

GLOBAL = Group("Everywhere", sort_key=100)

app = App(
    name="penstock",
    help="Durable execution as NATS services, with state in Valkey.",
    version=__version__,
    help_on_error=False,
    default_parameter=Parameter(show_default=False),
)
app.meta.group_parameters = GLOBAL


@app.command
async def up(
    *,
    data: Path = DEFAULT,
    valkey: Annotated[str | None, Parameter(env_var="PENSTOCK_VALKEY_URL")] = None,
    nats_port: int = 0,
    valkey_port: int = 0,
    ready_file: Path | None = None,
    partitions: Annotated[
        int | None, Parameter(env_var="PENSTOCK_PARTITIONS", validator=Number(gte=1))
    ] = None,
    durability: Literal["disk", "process"] = "disk",
    nodes: Annotated[int | None, Parameter(validator=Number(gte=1, lte=9))] = None,
    scale: Annotated[list[str], Parameter(negative="")] = [],  # noqa: B006 - cyclopts copies it
    secure: Path | None = None,
    console: bool = True,
    console_port: int = 0,
    nats_ws_port: int = 0,
    gateway: bool = True,
    shell: ShellArgument,
) -> None:
    """Run Penstock on this machine until SIGTERM or Ctrl-C: NATS, Valkey and all services.

    Servers named with --nats or --valkey are used, others are started here, with their data in --data.
    Every service is a process of its own, started again when it dies. Other commands that run in the same
    directory find it by themselves.

    Parameters
    ----------
    data
        Where data, logs and the remembered ports are kept [.penstock].
    valkey
        A Valkey that runs already: redis://… Its password may be in a file that PENSTOCK_VALKEY_PASSWORD_FILE names.
    nats_port
        Port of the embedded nats-server [last time's, or any free one].
    valkey_port
        Port of the embedded Valkey [last time's, or any free one].
    ready_file
        Written, as JSON {"nats_url", "valkey_url", "metrics_urls", "pids", …}, once every service answers.
    partitions
        Shards of the state, fixed at the first start [1].
    durability
        disk: what is acknowledged survives a power cut. process: it survives killed processes [disk].
    nodes
        So many NATS servers and Valkey primaries, each with a replica: 1, 3 or more, fixed at the first start [1].
    scale
        SERVICE=N: so many processes of this service; may be given several times.
    secure
        A directory of `penstock secure`: run with its users, permissions and certificates.
    console
        Serve the console, and let the embedded nats-server speak WebSocket to it, both on loopback only.
    console_port
        Port of the console [last time's, or any free one].
    nats_ws_port
        Port of the embedded nats-server's WebSocket [last time's, or any free one].
    gateway
        Serve HTTP too, on loopback, for those without NATS, if the extra `gateway` is installed.
    """
    from penstock.local.deployment import Deployment
    from penstock.local.options import Options
    from penstock.local.secure import root_of

    if nodes == 2:
        raise UsageProblem(
            "--nodes takes 1, 3 or more: of two nodes, none is a majority when the other is gone"
        )
    options = Options(
        data=data,
        root=shell.named_root or (root_of(secure) if secure else DEFAULT_ROOT),
        secure=secure,
        gateway=gateway,
        nats_url=None if nats_port else shell.nats,
        valkey_url=None if valkey_port else valkey,
        nats_port=nats_port,
        valkey_port=valkey_port,
        ready_file=ready_file,
        durability=durability,
        nodes=nodes,
        console=console,
        console_port=console_port,
        websocket_port=nats_ws_port,
        scale=dict(_scale(text) for text in scale),
        settings={
            **({"PENSTOCK_NATS_CREDS": shell.credentials} if shell.credentials else {}),
            **({"PENSTOCK_PARTITIONS": str(partitions)} if partitions else {}),
        },
    )
    with Status(shell.console) as status:
        await Deployment(options, status).run()


def _scale(text: str) -> tuple[str, int]:
    service, _, count = text.partition("=")
    if service not in SERVICES or not count.isdigit() or not 1 <= int(count) <= 64:
        raise UsageProblem(f"--scale must read SERVICE=N with one of {', '.join(SERVICES)}, not {text!r}")
    return service, int(count)


executions.add_to(app)
bulk.add_to(app)
steering.add_to(app)
journals.add_to(app)
app.command(replays.replay_check)
search.add_to(app)
app.command(watch.watch)
app.command(workers.worker)
app.command(top.top)
for group in (
    flows.app,
    schedules.app,
    lanes.app,
    changes.app,
    mirror.app,
    trigger.app,
    waitpoints.app,
    workers.app,
    limits.budget,
    limits.quota,
    audit.app,
    dead.app,
):
    app.command(group)
audit.app.command(audit_export.export)
audit.app.command(audit_rewound.rewound)
app.command(backup.backup)
app.command(backup.restore)
app.command(console_command.console)
app.command(doctor.doctor)
app.command(asyncapi.asyncapi)
app.command(secure.secure)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    nats: Annotated[str | None, Parameter(env_var="PENSTOCK_NATS_URL")] = None,
    creds: Annotated[str | None, Parameter(env_var="PENSTOCK_NATS_CREDS")] = None,
    root: Annotated[str | None, Parameter(env_var="PENSTOCK_ROOT")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    timeout: float = 10.0,
) -> None:
    """Run one command.

    Parameters
    ----------
    nats
        Where NATS is [the `penstock up` that runs in this directory, or nats://127.0.0.1:4222].
    creds
        A NATS credentials file.
    root
        The first token of every subject: one per deployment [that of the `penstock up` here, or penstock].
    json
        Print JSON, for scripts.
    timeout
        Seconds to wait for an answer [10].
    """
    command, bound, ignored = app.parse_args(tokens)
    more: dict[str, Any] = {}
    if "shell" in ignored:
        more["shell"] = Shell(
            *consoles(),
            nats=nats,
            credentials=creds,
            named_root=root,
            json=json,
            timeout=timeout,
        )
    try:
        result = command(*bound.args, **bound.kwargs, **more)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except PenstockError as error:
        if json:
            emit_json({"error": error.body()})
        fail(f"{error.code}: {error.message}", 1)
    except Problem as problem:
        fail(str(problem), problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of the pipe is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def fail(message: str, code: int) -> NoReturn:
    """Print one line on stderr and exit with `code`."""
    sys.stderr.write(f"penstock: {message}\n")
    sys.exit(code)


def main() -> None:
    """Run the `penstock` console script."""
    app.meta([STDIN if each == "-" else each for each in sys.argv[1:]])


if __name__ == "__main__":
    main()
