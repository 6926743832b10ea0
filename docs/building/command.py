"""The reference of the `penstock` command: what `--help` says of each command."""

import re

from penstock.cli.__main__ import app

ABOUT = """\
# The command

`pip install 'penstock[cli]'`. Every command takes `--nats URL`, `--creds FILE`, `--root NAME`, `--json` (print JSON,
for scripts) and `--timeout SECONDS`, before or after its name. Where NATS is: `--nats`, else `PENSTOCK_NATS_URL`,
else the `penstock up` that runs in this directory. Exit codes: 0 it worked, 1 it did not, 2 it was asked wrongly.
"""


def page() -> str:
    told = app.generate_docs(heading_level=1)
    commands = told[re.search(r"^## .*penstock up", told, re.MULTILINE).start() :]  # type: ignore[union-attr]
    return f"{ABOUT}\n{re.sub(r'^```console', '```text', commands, flags=re.MULTILINE)}"
