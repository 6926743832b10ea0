"""Entry point of the process `penstock-audit-relay`."""

from penstock.runtime.process import run
from penstock_audit_relay.service import build


def main() -> None:
    run("audit-relay", build)


if __name__ == "__main__":
    main()
