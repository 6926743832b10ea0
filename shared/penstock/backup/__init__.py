"""A copy of a running Penstock at one point in time, and its return into empty servers. docs/backup.md explains both.

`taking` and `restoring` say in which order; `valkey` and `keys` (of one server) are the Valkey side, `jetstream` the
NATS side; `folder` the files, with a manifest that has their checksums.
"""

from penstock.backup.folder import BackupError, Manifest
from penstock.backup.restoring import restore
from penstock.backup.taking import Taken, back_up

__all__ = ["BackupError", "Manifest", "Taken", "back_up", "restore"]
