"""`penstock backup` and `penstock restore`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from penstock.cli.output import Status, clock
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import Shell, ShellArgument
from penstock.cli.valkey import PasswordFile, ValkeyUrl, login

if TYPE_CHECKING:
    from penstock.backup import Manifest


async def backup(
    folder: Path,
    /,
    *,
    valkey: ValkeyUrl = None,
    valkey_password_file: PasswordFile = None,
    pause: Annotated[int, Parameter(validator=Number(gte=10, lte=60_000))] = 5000,
    shell: ShellArgument,
) -> None:
    """Copy a running Penstock, Valkey's data and the streams, as it is at one point in time.

    The services go on working. At the end nothing is written to Valkey for a few hundredths of a second. The folder
    holds all payloads, and in dev mode the keys that sign tokens: its files are for you alone (mode 0600). The key in
    PENSTOCK_TOKEN_KEY (of `penstock up`: the data directory's token.key) is not in it: keep that one too, apart.

    Parameters
    ----------
    folder
        Where to write: a folder that is empty or does not exist.
    valkey
        Valkey's URL [that of the `penstock up` in this directory].
    valkey_password_file
        A file with Valkey's password.
    pause
        Most milliseconds for which writes to Valkey may stand still [5000].
    """
    from penstock.backup import BackupError, back_up

    url = _login(shell, valkey, valkey_password_file)
    with Status(shell.errors) as status:
        async with shell.client() as client:
            try:
                taken = await back_up(folder, client.nats, url, shell.root, pause_ms=pause, tell=status.doing)
            except BackupError as error:
                raise Problem(f"no backup was made: {error}") from None
    shell.show(
        msgspec.structs.asdict(taken),
        None
        if shell.json
        else f"{folder}: {taken.keys} keys and {taken.messages} messages, {taken.bytes / 2**20:.1f} MiB, in"
        f" {taken.seconds:.1f} s; writes stood still for {taken.stood_still_ms} ms",
    )


async def restore(
    folder: Path,
    /,
    *,
    valkey: ValkeyUrl = None,
    valkey_password_file: PasswordFile = None,
    data: Path | None = None,
    nodes: Annotated[int | None, Parameter(validator=Number(gte=1, lte=9))] = None,
    shell: ShellArgument,
) -> None:
    """Restore a backup into an empty NATS and an empty Valkey on which no service of Penstock runs.

    Then start the services, with the PENSTOCK_TOKEN_KEY that they had.

    Parameters
    ----------
    folder
        The folder that `penstock backup` wrote.
    valkey
        The empty Valkey's URL.
    valkey_password_file
        A file with Valkey's password.
    data
        Instead of --nats and --valkey: a new data directory, with which `penstock up --data` goes on.
    nodes
        With --data: how many NATS servers and Valkey primaries, as of `penstock up --nodes` [1].
    """
    if nodes is not None and data is None:
        raise UsageProblem("--nodes goes with --data: elsewhere the servers are there already")
    with Status(shell.errors) as status:
        if data is None:
            manifest = await _restore(folder, shell, _login(shell, valkey, valkey_password_file), status)
        else:
            from penstock.local.deployment import Deployment
            from penstock.local.options import Options

            # Nothing is acknowledged to anybody before they stop, and stopping writes everything to disk.
            options = Options(data=data, durability="process", nodes=nodes)
            async with Deployment(options, status).servers_only() as (nats_url, valkey_url):
                manifest = await _restore(folder, replace(shell, nats=nats_url), valkey_url, status)
    going_on = "start the services"
    if data is not None:
        going_on = f"put the old data directory's token.key into {data}, if you have it, and: penstock up --data {data}"
    shell.show(
        {"root": manifest.root, "point_at": manifest.point_at},
        None
        if shell.json
        else f"Restored as it was at {clock(manifest.point_at)}, under the root {manifest.root}. Now {going_on}.",
    )


async def _restore(folder: Path, shell: Shell, valkey_url: str, status: Status) -> "Manifest":
    from penstock.backup import BackupError, restore

    async with shell.client() as client:
        try:
            return await restore(folder, client.nats, valkey_url, status.doing, shell.named_root)
        except BackupError as error:
            raise Problem(f"not restored: {error}") from None


def _login(shell: Shell, named: str | None, password_file: str | None) -> str:
    found = login(shell, named, password_file)
    if found is None:
        raise UsageProblem("name Valkey with --valkey redis://… (or PENSTOCK_VALKEY_URL)")
    return found
