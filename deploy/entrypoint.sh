#!/bin/sh
# Run one service or the HTTP gateway, named by the first argument (`scheduler`), or else the penstock command (`doctor`, `worker list` …).
set -eu
case "${1:-}" in
    scheduler | lease-keeper | signal-router | mirror-observer | cancel-reconciler | audit-relay | gateway)
        service=$1
        shift
        exec "penstock-$service" "$@"  # exec: the service itself gets SIGTERM, and drains
        ;;
esac
exec penstock "$@"
