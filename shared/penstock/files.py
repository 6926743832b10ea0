"""Files that other processes may read while they are written."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file atomically: a reader never sees half of it. Raise OSError, with the draft removed.

    `mode`: what the file permits, less the process's umask.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.touch(mode)
        draft.write_text(text)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
