"""The HTTP gateway: Penstock's verbs, audit events and signal links for programs and people without NATS.

It is a NATS client like any other, and never reads the store: what it may do is what its NATS user may. It is optional,
and no service of NATS: nothing else in Penstock depends on it (docs/gateway.md).
"""

from typing import Final

INSTALL: Final = "the gateway needs the extra `gateway`: pip install 'penstock[gateway]'"
