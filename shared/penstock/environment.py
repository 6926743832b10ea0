"""Environment variables that begin with `PENSTOCK_`: whose they are."""

import re
from typing import Final

GATEWAY: Final = "PENSTOCK_GATEWAY_"
"""What the HTTP gateway's own settings begin with."""

_NAME: Final = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?$")
_LINK: Final = re.compile(r"(tcp|udp|sctp)://")


def set_by_kubernetes(name: str, value: str) -> bool:
    """Return whether Kubernetes sets this variable in every pod, for a Service whose name begins with `penstock`.

    Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    return bool(_NAME.search(name) or (name.endswith("_PORT") and _LINK.match(value)))
