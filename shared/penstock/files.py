"""Files that others read while they are written."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Written whole or not at all: a reader never sees half. Raises OSError, and leaves nothing behind then."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
