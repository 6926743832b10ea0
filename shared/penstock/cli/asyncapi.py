"""`penstock asyncapi`."""

from penstock.cli.shell import ShellArgument


def asyncapi(*, shell: ShellArgument) -> None:
    """Print the contract in AsyncAPI 3.0: every subject, with the schemas of its messages. It asks no server."""
    from penstock.asyncapi import document

    print(document(shell.root).decode())
