"""Build the console before a wheel is packed, where Node and the npm registry are; hatchling calls it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConsoleHook(BuildHookInterface):
    """A wheel without the console is whole but for `penstock console`; an editable checkout has `make console`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            subprocess.run(
                [sys.executable, Path(self.root) / "deploy" / "console.py", "--if-possible"], check=True
            )
