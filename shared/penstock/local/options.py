"""The options of one deployment on this machine."""

from dataclasses import dataclass, field
from pathlib import Path

from penstock.local.servers import Durability
from penstock.runtime.settings import Settings


@dataclass(frozen=True)
class Options:
    """The options of `penstock up`."""

    data: Path
    root: str = Settings().root
    nats_url: str | None = None
    valkey_url: str | None = None
    nats_port: int = 0
    valkey_port: int = 0
    ready_file: Path | None = None
    durability: Durability = "disk"
    nodes: int | None = None
    """How many NATS servers and Valkey primaries; None: as many as at the first start, or one of each."""
    scale: dict[str, int] = field(default_factory=dict[str, int])
    settings: dict[str, str] = field(default_factory=dict[str, str])
    """Further environment variables for the services."""
    console: bool = True
    """Whether to turn on the embedded nats-server's WebSocket, and to serve the console, where that can be done."""
    console_port: int = 0
    websocket_port: int = 0
    secure: Path | None = None
    """A folder of `penstock secure`, whose users and certificates the servers and services take."""
    gateway: bool = True
    """Whether the HTTP gateway runs too, if it is installed."""
