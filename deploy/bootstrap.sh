#!/bin/sh
# Makes this checkout ready to run: finds a Python, then deploy/bootstrap.py does the rest.
# With --for-docs, also what builds the docs as a site; with --for-tests, that and a browser, where apt-get has one.
# Second runs change nothing and take a moment.
set -eu
cd "$(dirname "$0")/.."

# Version managers leave shims on PATH that start no Python, and Debian ships one without venv: try each.
fit() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Microseconds of a little work. A Python that was built without profile-guided optimization, as version managers do, takes
# up to twice as long as one from a distribution. Where the environment is there already, all count as equally fast.
pace() {
    if [ -x .venv/bin/python ]; then echo 1 && return; fi
    "$1" -c '
from time import perf_counter as now
def work(table={}):
    began = now()
    for i in range(20000): table[i & 255] = str(i)
    return now() - began
print(int(min(work() for _ in range(9)) * 1e6))'
}

# The newest version wins; of several of one version the first on PATH, unless another is faster by a tenth.
find_python() {
    for name in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        least=
        for candidate in $(command -v "$name" 2>/dev/null && which -a "$name" 2>/dev/null | tail -n +2); do
            fit "$candidate" || continue
            took=$(pace "$candidate")
            if [ -z "$least" ] || [ $((took * 10)) -lt $((least * 9)) ]; then
                python=$candidate least=$took
            fi
        done
        if [ -n "$least" ]; then return 0; fi
    done
    return 1
}

if ! find_python; then
    root=
    [ "$(id -u)" = 0 ] || root="sudo -n"
    if command -v apt-get >/dev/null && { [ -z "$root" ] || $root true 2>/dev/null; }; then
        echo "setup: installing Python with apt-get" >&2
        $root apt-get update -qq >&2
        $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            python3 python3-venv >&2 </dev/null
    fi
    find_python || {
        echo "setup: Penstock needs Python 3.11 or newer, with its venv module (on Debian and Ubuntu:" \
            "apt-get install python3 python3-venv). Name another one with PYTHON=/path/to/python3." >&2
        exit 1
    }
fi

exec "$python" deploy/bootstrap.py "$@"
