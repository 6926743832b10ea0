"""Makes this checkout ready to run: virtual environment, dependencies, Valkey.

Standard library only, since it runs before anything is installed. deploy/bootstrap.sh finds the Python.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
VENV: Final = REPOSITORY / ".venv"
PYTHON: Final = VENV / "bin" / "python"
STAMP: Final = VENV / "penstock-setup"

VALKEY_MISSING: Final = """\
Penstock needs Valkey, or Redis 7 or newer: a `valkey-server` or `redis-server` on PATH.
Install one of these, then run make again:
  Debian 12        valkey-server from bookworm-backports, or redis-server
  Debian, Ubuntu   apt-get install valkey-server     (or redis-server, if it is version 7 or newer)
  Fedora, RHEL     dnf install valkey
  Alpine           apk add valkey
  Arch             pacman -S valkey
  macOS            brew install valkey
  elsewhere        https://valkey.io/download/"""


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


# --- the virtual environment and what goes into it


def environment_fits() -> bool:
    """The environment's Python still starts: it does not after an upgrade of the one it came from."""
    probe = [PYTHON, "-c", "import pip"]
    return PYTHON.exists() and subprocess.run(probe, capture_output=True).returncode == 0


def fingerprint() -> str:
    """What an installation depends on: the declared dependencies, and where the checkout is."""
    return hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes() + bytes(REPOSITORY)).hexdigest()


def install_dependencies(extra: str) -> None:
    """Install the checkout with this extra, unless that has been done."""
    stamp, wanted = STAMP.with_name(f"{STAMP.name}-{extra}"), fingerprint()
    if stamp.exists() and stamp.read_text() == wanted and PYTHON.exists():
        return
    if not environment_fits():
        say(f"creating .venv with Python {sys.version.split()[0]}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    say(f"installing dependencies into .venv ({extra})")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--editable", f".[{extra}]"], cwd=REPOSITORY, check=True, stdin=subprocess.DEVNULL)
    stamp.write_text(wanted)


# --- Valkey


def find_valkey() -> str | None:
    """valkey-server, or a redis-server that knows function libraries (7 or newer)."""
    if valkey := shutil.which("valkey-server"):
        return valkey
    if redis := shutil.which("redis-server"):
        told = subprocess.run([redis, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"v=(\d+)", told)
        if version and int(version[1]) >= 7:
            return redis
    return None


def root_prefix() -> list[str] | None:
    """What a command that needs root begins with, or None where we may not be root."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def install_valkey() -> None:
    """With the system's package manager; gives up quietly, the caller looks whether it is there now."""
    root = root_prefix()
    if shutil.which("brew") and os.geteuid() != 0:  # brew needs no root, and refuses it
        run(["brew", "install", "--quiet", "valkey"])
    elif root is None:
        return
    elif shutil.which("apt-get"):
        Apt(root).install()
    else:
        for manager in (
            ["dnf", "install", "--assumeyes", "--quiet"],
            ["apk", "add", "--quiet"],
            ["pacman", "-S", "--noconfirm"],
            ["zypper", "--non-interactive", "install"],
        ):
            if shutil.which(manager[0]):
                for package in ("valkey", "redis"):
                    say(f"installing {package} with {manager[0]}")
                    if run([*root, *manager, package]) and find_valkey():
                        return


def run(command: Sequence[str]) -> bool:
    """Runs a system command, with its output on stderr; whether it succeeded."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode == 0


class Apt:
    """Debian and Ubuntu. Debian 12 has Valkey in its backports suite only."""

    etc = Path("/etc/apt")
    added = etc / "sources.list.d" / "penstock-backports.sources"
    policy = Path("/usr/sbin/policy-rc.d")

    def __init__(self, root: Sequence[str]) -> None:
        self.root = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]

    def install(self) -> None:
        self.update()
        if self.candidate("valkey-server") is None:
            self.add_backports()
        version = self.candidate("redis-server") or ""
        if self.candidate("valkey-server"):
            self.install_package("valkey-server")
        elif int((re.search(r"(?:\d+:)?(\d+)", version) or ["", "0"])[1]) >= 7:
            self.install_package("redis-server")

    def update(self) -> bool:
        return run([*self.root, "apt-get", "update", "-qq"])

    def candidate(self, package: str) -> str | None:
        """The version that would be installed."""
        command = ["env", "LC_ALL=C", "apt-cache", "policy", package]
        told = subprocess.run(command, capture_output=True, text=True).stdout
        found = re.search(r"^  Candidate: (\S+)", told, re.MULTILINE)
        return found[1] if found and found[1] != "(none)" else None

    def install_package(self, package: str) -> None:
        say(f"installing {package} with apt-get")
        with self.services_kept_from_starting():
            run([*self.root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", package])
        if Path("/run/systemd/system").exists():  # nor is it to start at the next boot: penstock has its own
            run([*self.root, "systemctl", "disable", "--quiet", package])

    @contextmanager
    def services_kept_from_starting(self) -> Iterator[None]:
        """Debian's way to install a package without starting its service."""
        if self.policy.exists():  # the machine has a policy of its own
            yield
            return
        self.write(self.policy, "#!/bin/sh\nexit 101\n", "755")
        try:
            yield
        finally:
            run([*self.root, "rm", "-f", str(self.policy)])

    def add_backports(self) -> None:
        """Adds the backports suite of this release, from the mirror that the release itself comes from."""
        text = Path("/etc/os-release").read_text()
        release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
        codename = release.get("VERSION_CODENAME", "")
        if release.get("ID") != "debian" or not codename or self.added.exists():
            return
        matching = (s for s in self.sources() if codename in s["suites"].split())
        source = next((s for s in matching if "main" in s.get("components", "").split()), None)
        if source is None:
            return
        say(f"adding {codename}-backports to the package sources ({self.added})")
        names = ("uris", "architectures", "signed-by", "trusted")
        kept = {name: source[name] for name in names if name in source}
        fields = {"types": "deb", **kept, "suites": f"{codename}-backports", "components": "main"}
        text = "".join(f"{name.title()}: {value}\n" for name, value in fields.items())
        self.write(self.added, text.replace("Uris:", "URIs:"), "644")
        if not self.update() or self.candidate("valkey-server") is None:  # leave no source behind that fails
            say("it has no valkey-server: removing it again")
            run([*self.root, "rm", "-f", str(self.added)])
            self.update()

    def sources(self) -> Iterator[dict[str, str]]:
        """The enabled binary package sources, old style and new, as deb822 fields with lower-case names."""
        parts = self.etc / "sources.list.d"
        for path in [self.etc / "sources.list", *sorted(parts.glob("*.list"))]:
            if path.exists():
                yield from one_line_sources(path.read_text())
        for path in sorted(parts.glob("*.sources")):
            yield from deb822_sources(path.read_text())

    def write(self, path: Path, text: str, mode: str) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            run([*self.root, "install", "-m", mode, file.name, str(path)])


def one_line_sources(text: str) -> Iterator[dict[str, str]]:
    """`deb [signed-by=… arch=…] URI suite component …`"""
    names = {"signed-by": "signed-by", "arch": "architectures", "trusted": "trusted"}
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if found:
            options = dict(option.split("=", 1) for option in (found[1] or "").split() if "=" in option)
            kept = {names[key]: value.replace(",", " ") for key, value in options.items() if key in names}
            yield {"uris": found[2], "suites": found[3], "components": found[4].strip(), **kept}


def deb822_sources(text: str) -> Iterator[dict[str, str]]:
    """Stanzas of `Field: value`, with indented lines that carry a value on."""
    for stanza in re.split(r"\n\s*\n", text):
        lines = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
        found = re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", lines, re.MULTILINE)
        fields = {name.lower(): value.strip() for name, value in found}
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false")
        if enabled and "suites" in fields and "deb" in fields.get("types", "").split():
            yield fields


# --- a browser, for the tests of the console


def install_browser() -> None:
    """Debian's chromium, where apt-get may be used. Without a browser the console's tests are skipped, and say so."""
    root = root_prefix()
    if shutil.which("chromium") or root is None or not shutil.which("apt-get"):
        return
    apt = Apt(root)
    if apt.candidate("chromium") is None:
        apt.update()
    # Ubuntu's package of that name installs a snap, which needs a running snapd.
    if "snap" not in (apt.candidate("chromium") or "snap"):
        apt.install_package("chromium")


def main() -> None:
    with Path(__file__).open() as lock:  # two makes at once: the second waits, and finds it done
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            install_dependencies("dev")
            if not {"--for-tests", "--for-docs"}.isdisjoint(sys.argv):
                install_dependencies("docs")
        except subprocess.CalledProcessError as error:
            sys.exit(f"setup: failed: {' '.join(map(str, error.cmd))}")
        if find_valkey() is None:
            install_valkey()
            if find_valkey() is None:
                sys.exit(VALKEY_MISSING)
        if "--for-tests" in sys.argv:
            install_browser()


if __name__ == "__main__":
    main()
