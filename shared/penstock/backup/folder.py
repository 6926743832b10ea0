"""The folder of a backup: files of mode 0600, and `manifest.json`, which is written last and has their checksums."""

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from msgspec import Struct

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_PIECE: Final = 2**20


class BackupError(Exception):
    """The backup cannot be made, or cannot be restored; the message says what to do."""


class File(Struct):
    """What a file of the backup must be."""

    bytes: int
    sha256: str


class Stream(Struct, kw_only=True):
    """One JetStream stream. `state`, `config`: as NATS gave them with the snapshot."""

    config: dict[str, Any]
    state: dict[str, Any]
    snapshot: str
    """Name of the file with NATS' own snapshot."""
    tail: str
    """Name of the file with the messages that were stored between the snapshot and the point in time."""
    last_seq: int
    """The last sequence at the point in time."""
    first_seq: int = 0
    """A queue's first message at the point in time: earlier ones had been applied by then."""
    deleted: list[int] = []
    """Later messages that had been applied by then."""


class Manifest(Struct, kw_only=True):
    """What the backup is. The versions are those of whoever made it; times are ms since the Unix epoch."""

    format: int = FORMAT
    penstock: str
    library: int
    """Version of the function library: a Penstock with an older one does not understand the data."""
    valkey: str
    nats: str
    root: str
    began_at: int
    point_at: int
    """The point in time, by Valkey's clock: everything acknowledged before is in the backup, nothing from later."""
    stood_still_ms: int
    keys: str
    """Name of the file with Valkey's keys."""
    streams: dict[str, Stream]
    files: dict[str, File]


class Folder:
    """A new backup's folder. Everything in it is removed if the backup fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, File] = {}

    def make(self) -> None:
        """Make the folder, mode 0700. Raise BackupError if there is something in it, or it cannot be made."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise BackupError(f"{self.path} is not empty: name a new folder")
        except OSError as error:
            raise BackupError(f"cannot use {self.path}: {error.strerror}") from None

    @contextmanager
    def writing(self, name: str) -> Generator["Sink"]:
        """Write a file. Its checksum is known when the block ends."""
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            sink = Sink(file)
            yield sink
            file.flush()
            os.fsync(file.fileno())
        self.files[name] = File(sink.size, sink.checksum.hexdigest())

    def finish(self, manifest: Manifest) -> None:
        with self.writing(MANIFEST) as sink:
            sink.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")

    def discard(self) -> None:
        """Remove what was written: a backup without a manifest is worth nothing."""
        for file in self.path.iterdir():
            file.unlink()


class Sink:
    """An open file that counts and sums what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self.checksum = hashlib.sha256()
        self._file = file

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.checksum.update(data)
        self.size += len(data)


def opened(path: Path) -> Manifest:
    """Return the manifest of a backup, once all its files are what it says. Raise BackupError."""
    try:
        manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise BackupError(f"{path} holds no backup, or an unfinished one: {MANIFEST} is missing") from None
    except OSError as error:
        raise BackupError(f"cannot read {path / MANIFEST}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackupError(f"{path / MANIFEST} is damaged: {error}") from None
    if manifest.format > FORMAT:
        raise BackupError(
            f"Penstock {manifest.penstock} made this backup: restore it with that version or a newer one"
        )
    for name, file in manifest.files.items():
        _check(path / name, file)
    return manifest


def _check(path: Path, wanted: File) -> None:
    checksum, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                checksum.update(piece)
                size += len(piece)
    except OSError as error:
        raise BackupError(f"cannot read {path}: {error.strerror}; take another backup") from None
    if (size, checksum.hexdigest()) != (wanted.bytes, wanted.sha256):
        raise BackupError(f"{path} is damaged: its checksum is not the manifest's; take another backup")
