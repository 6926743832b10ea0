"""The description of the machine that ran the benchmarks; figures mean nothing without it."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import redis

import servers
from benchmarks.install import versions

_PACKAGES = ["streaq", "saq", "arq", "taskiq-nats"]


def describe() -> dict[str, object]:
    """Describe hardware, system and versions. Include nothing that identifies the machine."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "sync_us": round(_sync_us()),
        "versions": {
            "python": platform.python_version(),
            "nats-server": _told("nats-server", "--version"),
            "valkey": _valkey_version(),
            **versions(_PACKAGES),
        },
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _sync_us() -> float:
    """Return the median microseconds of a small write with fsync; `appendfsync always` waits for such a sync."""
    times: list[float] = []
    with tempfile.TemporaryFile() as file:
        for _ in range(200):
            file.write(b"x" * 512)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return median(times) * 1e6


def _valkey_version() -> str:
    with servers.valkey_server() as url:
        told = redis.Redis.from_url(url, protocol=2).info("server")
    return str(told.get("valkey_version") or f"redis {told['redis_version']}")


def _told(name: str, flag: str) -> str:
    found = shutil.which(name) or Path(sys.executable).with_name(name)
    told = subprocess.run([found, flag], capture_output=True, text=True).stdout
    return told.split()[-1].lstrip("v") if told else "unknown"
