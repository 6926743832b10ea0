#!/bin/sh
# Makes this checkout ready to run: finds a Python, then deploy/bootstrap.py does the rest.
# With --for-docs, also what builds the docs as a site; with --for-tests, that and a browser, where apt-get has one.
# Second runs change nothing and take a moment.
set -eu
cd "$(dirname "$0")/.."

# Version managers leave shims on PATH that start no Python, and Debian ships one without venv: try each.
fit() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        if fit "$candidate"; then
            python=$candidate
            return 0
        fi
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
