"""Measure this project on this machine, beside nanoGPT, and write docs/benchmarks.md.

    make bench PEER=path/to/nanoGPT                    # all of it: about 25 minutes on two cores
    make bench PEER=path/to/nanoGPT ONLY=steps,start   # some sections; the others stay as they are
    make bench TEXT=path/to/input.txt                  # without network, and our side alone

Raw figures are kept in data/bench/results.json, from which the page is written.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks import gpu, measures, page
from benchmarks.processes import CORES, ROOT
from benchmarks.sides import Ours, Theirs

RESULTS = ROOT / "data/bench/results.json"
PAGE = ROOT / "docs/benchmarks.md"
SECTIONS = {
    "steps": measures.steps,
    "loss": measures.loss,
    "start": measures.start,
    "saving": measures.saving,
    "gpu": gpu.gpu,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="make bench")
    parser.add_argument("--peer", type=Path, help="PEER=: a checkout of nanoGPT")
    parser.add_argument("--seeds", type=int, default=3, help="SEEDS=: turns of each measurement")
    parser.add_argument("--only", help=f"ONLY=: some of {','.join(SECTIONS)}")
    parser.add_argument("--text", type=Path, help="TEXT=: tiny Shakespeare, if you have it already")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else [n for n in SECTIONS if n != "gpu"]
    if not args.only and gpu.device():
        chosen.append("gpu")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"ONLY: no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if args.peer and not (args.peer / "train.py").is_file():
        parser.error(f"PEER: there is no train.py in {args.peer}")
    if args.text and not args.text.is_file():
        parser.error(f"TEXT: there is no file {args.text}")

    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RESULTS.parent) as name:
        folder = Path(name)
        ours = Ours(folder, str(args.text.absolute()) if args.text else "tiny_shakespeare")
        theirs = Theirs(folder / "peer", args.peer, ours) if args.peer else None
        measures.warm_up(ours, theirs)
        for section in chosen:
            print(f"bench: {section}", file=sys.stderr, flush=True)
            began = time.perf_counter()
            figures = SECTIONS[section](ours, theirs, args.seeds)
            keep(section, figures, about(section, args, time.perf_counter() - began))
    print(f"bench: {PAGE.relative_to(ROOT)} is written", file=sys.stderr)


def keep(section: str, figures: measures.Figures, about: dict[str, str]) -> None:
    """Put a section's figures in the place of its older ones, and write the page anew."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[section] = {"about": about, "figures": figures}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page.render(results), encoding="utf-8")


def about(section: str, args: argparse.Namespace, seconds: float) -> dict[str, str]:
    """When, where and how; no path of this machine, since the page may be committed."""
    peer = " PEER=path/to/nanoGPT" if args.peer else ""
    return {
        "command": f"make bench{peer} SEEDS={args.seeds} ONLY={section}",
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {seconds / 60:.0f} minutes",
        "machine": f"{CORES} core{'s'[: CORES > 1]} of {_processor()}, {platform.system()}",
        "versions": f"Python {platform.python_version()}, torch {version('torch')}",
        "commits": f"ours {_commit(ROOT)}"
        + (f", theirs {_commit(args.peer)}" if args.peer else ""),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in known.items()}
    name = facts.get("model name", platform.machine())
    return name + (" with avx512_bf16" if "avx512_bf16" in facts.get("flags", "") else "")


def _commit(folder: Path) -> str:
    command = ["git", "-C", os.fspath(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
