from penstock.runtime import run
from penstock_scheduler.service import build


def main() -> None:
    run("scheduler", build)


if __name__ == "__main__":
    main()
