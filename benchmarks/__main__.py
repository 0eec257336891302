"""Measure this project on this machine, beside nanoGPT, and write docs/benchmarks.md.

    make bench PEER=path/to/nanoGPT                    # all of it: about 25 minutes on two cores
    make bench PEER=path/to/nanoGPT ONLY=steps,start   # some sections; the others stay as they are
    make bench TEXT=path/to/input.txt                  # without network, and our side alone

After each turn of a section its raw figures go to data/bench/results.json, and the page is written
anew: Ctrl-C loses the turn that is under way, and nothing else.
"""

import argparse
import datetime
import json
import platform
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import answers, measures, page
from benchmarks.about import commit, processor, versions
from benchmarks.gpu import device, gpu
from benchmarks.measures import Bench, Figure
from benchmarks.processes import CORES, ROOT, check_given
from benchmarks.sides import NEEDED, Ours, Theirs
from nanogpt.common.command import one_line
from nanogpt.common.errors import Told, UserError
from nanogpt.common.files import write_text
from nanogpt.common.told import raise_when_told

RESULTS = ROOT / "data/bench/results.json"
PAGE = ROOT / "docs/benchmarks.md"
SECTIONS: dict[str, Callable[[Bench], Iterator[list[Figure]]]] = {
    "steps": measures.steps,
    "loss": measures.loss,
    "start": measures.start,
    "saving": measures.saving,
    "generation": answers.generation,
    "server": answers.server,
    "gpu": gpu,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="make bench")
    parser.add_argument("--peer", type=Path, help="PEER=: a checkout of nanoGPT")
    parser.add_argument("--seeds", type=int, default=3, help="SEEDS=: turns of each section")
    parser.add_argument("--only", help=f"ONLY=: some of {','.join(SECTIONS)}")
    parser.add_argument("--text", type=Path, help="TEXT=: tiny Shakespeare, if you have it already")
    parser.add_argument("--quick", type=Path, help="a few steps, and all is written to this folder")
    args = parser.parse_args()
    # the command that is under way and the temporary folder are to go then, too
    raise_when_told()
    with one_line("bench"):
        try:
            measure(args, choose(args))
        except KeyboardInterrupt as told:
            print("bench: stopped; all turns before this one are kept", file=sys.stderr)
            sys.exit(128 + (told.signal if isinstance(told, Told) else signal.SIGINT))


def choose(args: argparse.Namespace) -> list[str]:
    """The sections to measure.

    Raises:
        UserError: an argument makes no sense, or asks for what is not there.
    """
    if args.seeds < 1:
        raise UserError(f"SEEDS: {args.seeds} turns measure nothing")
    check_given(args.text, args.peer, NEEDED)
    chosen = list(dict.fromkeys(args.only.split(","))) if args.only else list(SECTIONS)
    if unknown := [name for name in chosen if name not in SECTIONS]:
        raise UserError(f"ONLY: no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    if "gpu" in chosen and not device():
        if args.only:
            raise UserError("gpu: torch finds none here")
        print("bench: gpu: torch finds none here, so this section is left out", file=sys.stderr)
        chosen.remove("gpu")
    return chosen


def measure(args: argparse.Namespace, chosen: list[str]) -> None:
    results, shown = RESULTS, PAGE
    if args.quick:
        results, shown = args.quick / "results.json", args.quick / "benchmarks.md"
    results.parent.mkdir(parents=True, exist_ok=True)
    commits = f"ours {commit(ROOT)}"  # before the page itself differs from it
    if args.peer:
        commits += f", theirs {commit(args.peer)}"
    with tempfile.TemporaryDirectory(dir=results.parent) as name:
        folder = Path(name).absolute()
        ours = Ours(folder, str(args.text.absolute()) if args.text else "tiny_shakespeare")
        theirs = Theirs(folder / "peer", args.peer, ours) if args.peer else None
        sizes = measures.QUICK if args.quick else measures.Sizes()
        bench = Bench(ours, theirs, sizes, args.seeds)
        measures.warm_up(bench)
        for section in chosen:
            began, turns = time.perf_counter(), []
            print(f"bench: {section}", file=sys.stderr, flush=True)
            for figures in SECTIONS[section](bench):
                turns.append([asdict(figure) for figure in figures])
                seconds = time.perf_counter() - began
                # a turn may come in several pieces
                times = Counter((f["measure"], f["unit"]) for turn in turns for f in turn)
                count = max(times.values())
                facts = about(section, args, count, seconds) | {"commits": commits}
                found = {"about": facts, "turns": turns}
                keep(results, shown, section, found)
    print(f"bench: {shown} is written", file=sys.stderr)


def keep(results: Path, shown: Path, section: str, found: dict[str, Any]) -> None:
    """Put a section's figures in the place of its older ones, and no others into the page."""
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    # what an older version of this program wrote has no turns
    known = {name: kept for name, kept in known.items() if "turns" in kept} | {section: found}
    older = shown.read_text(encoding="utf-8") if shown.exists() else ""
    write_text(results, json.dumps(known, indent=1) + "\n")
    # the page is in git, and may have other sections from a machine that measured them later
    write_text(shown, page.render({section: found} if older else known, SECTIONS, older))


def about(section: str, args: argparse.Namespace, turns: int, seconds: float) -> dict[str, str]:
    """When, where and how; no path of this machine, since the page may be committed."""
    peer = " PEER=path/to/nanoGPT" * bool(args.peer)
    text = " TEXT=path/to/input.txt" * bool(args.text)
    where = device() if section == "gpu" else f"{CORES} core{'s'[: CORES > 1]} of {processor()}"
    return {
        "command": f"`make bench{peer}{text} SEEDS={args.seeds} ONLY={section}`"
        + " in small" * bool(args.quick),
        "turns": f"{turns} turn{'s'[: turns > 1]}",
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {seconds / 60:.0f} minutes",
        "machine": f"{where}, {platform.system()}",
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
