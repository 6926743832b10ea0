from penstock.runtime import run
from penstock_lease_keeper.service import build


def main() -> None:
    run("lease-keeper", build)


if __name__ == "__main__":
    main()
