"""Entry point of the process `penstock-signal-router`."""

from penstock.runtime import run
from penstock_signal_router.service import build


def main() -> None:
    run("signal-router", build)


if __name__ == "__main__":
    main()
