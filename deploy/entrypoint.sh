#!/bin/sh
# Run one service or the HTTP gateway, named by the first argument (`scheduler`), or else the penstock command (`doctor`, `worker list` …).
# `healthy` is what the image's HEALTHCHECK asks of whatever the container runs.
set -eu

# Services, the gateway and the console answer on the metrics port. Another command is well as long as it runs.
healthy() {
    set -f  # a word such as * is no pattern
    for word in $(tr '\0' ' ' </proc/1/cmdline); do
        word=${word##*/}
        case ${word#penstock-} in
            scheduler | lease-keeper | signal-router | mirror-observer | cancel-reconciler | audit-relay | gateway | console)
                exec python -c "import os, urllib.request
urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PENSTOCK_METRICS_PORT\"]}/healthz', timeout=4)"
                ;;
        esac
    done
    exit 0
}

case "${1:-}" in
    healthy) healthy ;;
    scheduler | lease-keeper | signal-router | mirror-observer | cancel-reconciler | audit-relay | gateway)
        service=$1
        shift
        exec "penstock-$service" "$@"  # exec: the service itself gets SIGTERM, and drains
        ;;
esac
exec penstock "$@"
