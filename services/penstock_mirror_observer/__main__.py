from penstock.runtime import run
from penstock_mirror_observer.service import build


def main() -> None:
    run("mirror-observer", build)


if __name__ == "__main__":
    main()
