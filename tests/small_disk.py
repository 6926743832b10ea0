"""A small disk of its own for a server's data, which a test fills and frees. It needs the right to mount a tmpfs."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Write until nothing more fits, to the last block."""
        try:
            with self._ballast.open("ab", buffering=0) as file:
                for size in (2**20, 4096):
                    while file.write(bytes(size)) == size:
                        pass
        except OSError:
            pass
        assert self._free_bytes() == 0

    def free(self) -> None:
        self._ballast.unlink()

    def _free_bytes(self) -> int:
        told = subprocess.run(
            ["df", "--output=avail", self.folder], capture_output=True, text=True, check=True
        )
        return int(told.stdout.split()[1])


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a small disk at `folder`, which is made; skip the test where that is not allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    told = subprocess.run(mount, capture_output=True, text=True)
    if told.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {told.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
