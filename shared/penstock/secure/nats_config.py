"""The accounts, users and permissions for nats-server, as a configuration file to include."""

from collections.abc import Iterable
from typing import Final

from penstock.bus.identity import Identity
from penstock.secure.keys import public_key
from penstock.secure.roles import Subjects

HEAD: Final = """\
# Written by `penstock secure`, which writes it anew at every run: change the roles there, not here.
# It holds public keys only. Include it in nats-server's configuration; `nats-server --signal reload` takes changes.
"""
ACCOUNT: Final = "PENSTOCK"


def accounts(users: Iterable[tuple[Identity, Subjects]]) -> str:
    """Return the configuration: one account with JetStream for Penstock, one for NATS' own, and no way in besides."""
    blocks = "\n".join(_user(identity, allowed) for identity, allowed in users)
    return (
        f"{HEAD}"
        f"accounts {{\n  {ACCOUNT} {{\n    jetstream: enabled\n    users: [\n{blocks}\n    ]\n  }}\n  SYS {{}}\n}}\n"
        "system_account: SYS\n"
    )


def _user(identity: Identity, allowed: Subjects) -> str:
    return (
        f"      # {identity.name}: {identity.role}{' of ' + ', '.join(identity.lanes) if identity.lanes else ''}\n"
        f"      {{ nkey: {public_key(identity.nkey_seed)}, permissions: {{\n"
        f"        publish: {{ allow: {_list(allowed.publish)} }}\n"
        f"        subscribe: {{ allow: {_list(allowed.subscribe)} }}\n"
        "      } }"
    )


def _list(subjects: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{subject}"' for subject in subjects) + "]"
