"""`make soak MINUTES=n`: random faults over random load for n minutes; then everything must have ended as promised."""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from soak.run import Result, soak


def main() -> None:
    options = _arguments()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    folder = Path(options.folder or tempfile.mkdtemp(prefix="penstock-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f}] {text}", flush=True)

    say(f"seed {seed}; logs and journals in {folder}")
    result = asyncio.run(
        soak(
            folder,
            seconds=options.minutes * 60,
            seed=seed,
            rate=options.rate,
            patience_s=options.patience,
            nodes=options.nodes,
            say=say,
        )
    )
    (folder / "result.json").write_text(json.dumps(_facts(result), indent=2))
    print(_page(result))
    if not result.ok:
        sys.exit(f"soak: not clean; seed {seed}, everything is in {folder}")
    if options.folder is None:
        shutil.rmtree(folder)


def _facts(result: Result) -> dict[str, object]:
    return {
        "seed": result.seed,
        "load_s": round(result.load_s, 1),
        "drained_s": None if result.drained_s is None else round(result.drained_s, 1),
        "looked_at": result.findings.counts,
        "stories": result.stories,
        "faults": result.faults,
        "problems": result.findings.problems,
    }


def _page(result: Result) -> str:
    lines = [f"faults: {len(result.faults)}", *(f"  {at:6.1f} s  {text}" for at, text in result.faults)]
    lines += ["stories:", *(f"  {count:7,} {what}" for what, count in sorted(result.stories.items()))]
    lines += ["checked:", *(f"  {count:7,} {what}" for what, count in result.findings.counts.items())]
    ended = (
        "NOT all has ended" if result.drained_s is None else f"all had ended after {result.drained_s:.0f} s"
    )
    lines += [ended, f"problems: {len(result.findings.problems)}"]
    lines += [f"  {kind}: {subject}: {text}" for kind, subject, text in result.findings.problems[:50]]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of load and faults [10]")
    parser.add_argument("--seed", type=int, help="of load and faults [a random one]")
    parser.add_argument("--rate", type=float, default=12, help="stories a second [12]")
    parser.add_argument("--nodes", type=int, default=1, help="as of `penstock up --nodes` [1]")
    parser.add_argument("--patience", type=float, default=180, help="seconds in which all must end [180]")
    parser.add_argument(
        "--folder", help="for logs, data and journals; kept [a temporary one, kept if not clean]"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
