"""Entry point of the process `penstock-gateway`."""

import argparse
import asyncio
import sys
from pathlib import Path

from penstock import __version__, web
from penstock_gateway import INSTALL
from penstock_gateway.settings import Settings, SettingsError, help_text
from penstock_gateway.tokens import USEFUL, TokensError, add


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="penstock-gateway",
        description="Penstock over HTTP. Runs until SIGTERM; SIGHUP reads the tokens file again.",
        epilog="settings, from the environment [default]:\n" + help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    commands = parser.add_subparsers(dest="command", title="other commands")
    token = commands.add_parser("token", help="add a bearer token to the tokens file and print it, once")
    token.add_argument("name", help="whose it is: A-Z a-z 0-9 _ -")
    token.add_argument("role", choices=USEFUL, help="what it may do (docs/security.md)")
    commands.add_parser("openapi", help="print the description in OpenAPI 3.1")
    given = parser.parse_args()
    try:
        settings = Settings.from_env()
        if given.command == "token":
            print(add(Path(settings.tokens), given.name, given.role))
            return
    except (SettingsError, TokensError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if not web.installed("prometheus_client"):
        parser.exit(2, f"{parser.prog}: {INSTALL}\n")
    if given.command == "openapi":
        from penstock_gateway.openapi import document

        print(document().decode())
        return
    from penstock_gateway.logs import configure
    from penstock_gateway.process import live

    configure()
    sys.exit(asyncio.run(live(settings)))


if __name__ == "__main__":
    main()
