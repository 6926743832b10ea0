"""`make soak MINUTES=n`: random faults over random load for n minutes; then everything must have ended as promised."""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from soak.fuzz import Result as Fuzzed
from soak.fuzz import fuzz
from soak.growth import slopes
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
    if options.fuzz:
        fuzzed = asyncio.run(fuzz(folder, requests=options.fuzz, seed=seed, say=say))
        _end(options, folder, _fuzz_facts(fuzzed), ok=fuzzed.ok)
        return
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
    print(_page(result))
    _end(options, folder, _facts(result), ok=result.ok)


def _end(options: argparse.Namespace, folder: Path, facts: dict[str, object], *, ok: bool) -> None:
    """Write the result into the folder, which goes if it is a temporary one and all is clean."""
    (folder / "result.json").write_text(json.dumps(facts, indent=2))
    if not ok:
        sys.exit(f"soak: not clean; seed {facts['seed']}, everything is in {folder}")
    if options.folder is None:
        shutil.rmtree(folder)


def _fuzz_facts(result: Fuzzed) -> dict[str, object]:
    facts = {
        **vars(result),
        "samples": [asdict(each) for each in result.samples],
        "growth_per_request": {name: round(each, 4) for name, each in slopes(result.samples).items()},
    }
    for name in ("requests", "published", "codes", "growth_per_request", "problems"):
        print(f"{name}: {json.dumps(facts[name], indent=2)}")
    return facts


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
    parser.add_argument("--fuzz", type=int, help="instead: send so many random requests, without faults")
    parser.add_argument("--patience", type=float, default=180, help="seconds in which all must end [180]")
    parser.add_argument(
        "--folder", help="for logs, data and journals; kept [a temporary one, kept if not clean]"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
