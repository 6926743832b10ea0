"""Which Valkey a command talks to, for the few that need it themselves."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from penstock.cli.problems import UsageProblem
from penstock.cli.shell import Shell
from penstock.local import data_dir

ValkeyUrl = Annotated[str | None, Parameter(env_var="PENSTOCK_VALKEY_URL")]
PasswordFile = Annotated[str | None, Parameter(env_var="PENSTOCK_VALKEY_PASSWORD_FILE")]


def login(shell: Shell, named: str | None, password_file: str | None) -> str | None:
    """Return Valkey's URL with its password: of the one named, else of the `penstock up` in this directory.

    None if neither is there. Raise Problem if the password cannot be read.
    """
    # These know services and their store. Most commands do not, and start in half the time without them.
    from penstock.local.secure import operators_valkey
    from penstock.runtime.addresses import SettingsError, login_of

    running = data_dir.DataDir(data_dir.DEFAULT).running()
    if named is None and running and shell.nats_url() == running["nats_url"]:
        if "secure" in running:
            return operators_valkey(Path(running["secure"]), str(running["valkey_url"]))
        named, password_file = str(running["valkey_url"]), running.get("valkey_password_file")
    try:
        return None if named is None else login_of(named, password_file)
    except SettingsError as error:
        raise UsageProblem(str(error)) from None
