from penstock.runtime import run
from penstock_cancel_reconciler.service import build


def main() -> None:
    run("cancel-reconciler", build)


if __name__ == "__main__":
    main()
