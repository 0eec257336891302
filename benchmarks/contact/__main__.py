"""Check and measure on the GPU of this machine all that was written without one, into docs/gpu.md.

    make gpu TEXT=input.txt PEER=nanoGPT        # all of it: half an hour, without a network
    make gpu MINUTES=9 ONLY=speed,repeats       # some lines, in so many minutes; the others stay

It needs Python 3.11 and torch 2.11, or later ones, and what a training imports (numpy, pydantic,
ruamel.yaml, psutil, tqdm, safetensors, filelock, zstandard; with PEER= pyyaml and requests), in the
environment of this project if it is made, else in python3. TEXT= is tiny Shakespeare, PEER= a
checkout of nanoGPT. Each line is a process of its own, with a limit to its time, and the page is
written after each: a run that is cut off loses the line under way.

Exit code: 0 if all checks passed, 1 if one failed, 75 if none failed and some could not be run.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.about import commit
from benchmarks.processes import ROOT, check_given, python_path
from nanogpt.common.errors import UserError

RESULTS = ROOT / "data/bench/gpu.json"
PAGE = ROOT / "docs/gpu.md"
SPARE = 10  # seconds that are kept for the end
TAIL = 40  # lines of what a line of the page said before it broke off
ANSWER = 120  # seconds: a driver that hangs says nothing at all
ASK = """
import torch
known = torch.cuda.is_available()
print(torch.__version__, torch.cuda.get_device_name() if known else "", sep=";")
"""
# name → minutes at most, and what it is about; by their worth
LINES = {
    "numbers": (3, "losses beside a CPU's, and what a token sees"),
    "speed": (7, "GPT-2 124M at half a million tokens a step"),
    "repeats": (3, "the same bytes, also after a stop"),
    "loss": (5, "`shakespeare_gpu` to nanoGPT's best loss"),
    "sizes": (3, "memory counted before, and taken"),
    "types": (3, "float16, bfloat16, float32"),
    "shards": (3, "FSDP on one GPU"),
    "packed": (3, "FlexAttention for packed documents"),
    "launches": (3, "what a small model waits for"),
}
HEAD = """# At first contact with a GPU

Written by `make gpu`, line by line; when and where each came about stands below. What was not run
says why: it is no pass.

| line | check | found | wanted | result |
| --- | --- | --- | --- | --- |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="make gpu")
    parser.add_argument("--text", type=Path, help="TEXT=: tiny Shakespeare")
    parser.add_argument("--peer", type=Path, help="PEER=: a checkout of nanoGPT")
    parser.add_argument("--minutes", type=float, default=30, help="MINUTES=: of all lines together")
    parser.add_argument("--only", help=f"ONLY=: some of {','.join(LINES)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes on a CPU, for the tests")
    parser.add_argument("--folder", type=Path, help="where the results go, for the tests")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(contact(args, chosen(args)))
    except UserError as error:
        print(f"gpu: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("gpu: stopped; all lines before this one are kept", file=sys.stderr)
        sys.exit(130)


def chosen(args: argparse.Namespace) -> list[str]:
    """The lines to run, in their order.

    Raises:
        UserError: an argument makes no sense, or asks for what is not there.
    """
    check_given(args.text, args.peer, ["train.py"])
    if not args.minutes > 0:
        raise UserError(f"MINUTES: {args.minutes:g} are none")
    only = args.only.split(",") if args.only else list(LINES)
    if unknown := [name for name in only if name not in LINES]:
        raise UserError(f"ONLY: no line {unknown[0]!r}; there are {', '.join(LINES)}")
    return [name for name in LINES if name in only]


def contact(args: argparse.Namespace, lines: list[str]) -> int:
    """Run lines one after another, and keep each; the exit code."""
    results, page = RESULTS, PAGE
    if args.folder:
        results, page = args.folder / "gpu.json", args.folder / "gpu.md"
    ends = time.monotonic() + 60 * args.minutes
    machine, why = here(args)
    codes = set()
    for name in lines:
        left = ends - time.monotonic() - SPARE
        checks = [not_run(why)] if why else run(name, args, left)
        found = [check["result"].partition(":")[0] for check in checks]
        codes |= {*found}
        counts = ", ".join(f"{found.count(kind)} {kind}" for kind in dict.fromkeys(found))
        print(f"gpu: {name}: {counts}", file=sys.stderr, flush=True)
        for check in checks:
            if check["result"] not in ("passed", "figure"):
                said = " ".join(filter(None, (check["what"], check["found"], check["result"])))
                print(f"gpu:   {said}", file=sys.stderr, flush=True)
        small = "in small, " * args.quick
        when = small + time.strftime("%Y-%m-%d", time.gmtime())
        about = f"{when}, {machine}, commit {commit(ROOT)}"
        keep(results, page, name, {"about": about, "checks": checks})
    print(f"gpu: {page} is written", file=sys.stderr)
    return 1 if "failed" in codes else 75 if "not run" in codes else 0


def here(args: argparse.Namespace) -> tuple[str, str]:
    """What this machine is, and why nothing can be run on it; "": it can."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ASK],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=ANSWER,
        )
    except subprocess.TimeoutExpired:
        return "no torch", f"torch did not say within {ANSWER} s whether there is a GPU"
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["?"])[-1]
        return "no torch", f"torch cannot be asked for a GPU: {last}"
    torch, _, device = asked.stdout.strip().splitlines()[-1].partition(";")
    name = f"{device or 'no GPU'}, torch {torch}, Python {platform.python_version()}"
    if older(platform.python_version(), (3, 11)):
        return name, f"Python {platform.python_version()} is older than 3.11"
    if args.quick:
        return name, ""
    if older(torch, (2, 11)):
        return name, f"torch {torch} is older than 2.11"
    warned = next((line for line in asked.stderr.splitlines() if "driver" in line), "")
    return name, "" if device else "no GPU" + (f": {warned.strip()}" if warned else "")


def older(version: str, least: tuple[int, int]) -> bool:
    return tuple(map(int, version.split("+")[0].split(".")[:2])) < least


def run(name: str, args: argparse.Namespace, seconds: float) -> list[dict[str, Any]]:
    """The checks of a line: those that it came to, and how it ended if that was not well."""
    own = 60.0 * LINES[name][0]
    if seconds < own / 3:
        return [not_run("no time was left")]
    limit = min(own, seconds)
    given = {
        "device": "cpu" if args.quick else "cuda",
        "began": time.time(),
        "quick": args.quick,
        "text": os.fspath(args.text.absolute()) if args.text else None,
        "peer": os.fspath(args.peer.absolute()) if args.peer else None,
    }
    words = [sys.executable, "-m", "benchmarks.contact.lines", name, json.dumps(given)]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": python_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches it by way of us alone
    )
    late = False
    try:
        said, errors = process.communicate(timeout=limit)
        fault = "" if process.returncode == 0 else last_words(errors, process.returncode)
    except subprocess.TimeoutExpired:
        stop(process)
        said, errors = process.communicate()
        late, fault = True, f"it was not done within {limit:.0f} s"
    except BaseException:
        stop(process)
        process.communicate()
        raise
    checks = list(printed(said))
    if fault:  # of which the page has one line, and the next look at a GPU may be far
        print("\n".join(errors.splitlines()[-TAIL:]), file=sys.stderr, flush=True)
    if late and limit < own:  # it had time enough, and MINUTES= took it
        return [*checks, not_run(f"{fault}, all that was left of MINUTES=", "the rest of it")]
    if fault.startswith("ModuleNotFoundError"):
        return [*checks, not_run(fault)]
    if fault:
        checks.append({"what": "the rest of it", "found": fault, "wanted": "", "result": "failed"})
    return checks


def stop(process: "subprocess.Popen[str]") -> None:
    """End a line with all that it started: nanoGPT, in a session of its own, would train on."""
    import psutil  # which a line needs as well: without it there is none to stop

    with suppress(psutil.Error):
        line = psutil.Process(process.pid)
        for one in (line, *line.children(recursive=True)):
            with suppress(psutil.Error):
                one.kill()


def printed(said: str) -> Iterator[dict[str, Any]]:
    for line in said.splitlines():
        with suppress(json.JSONDecodeError):
            found = json.loads(line)
            if isinstance(found, dict) and "result" in found:
                yield found


def last_words(errors: str, code: int) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), f"it ended with {code}")


def not_run(why: str, what: str = "all of it") -> dict[str, Any]:
    return {"what": what, "found": "", "wanted": "", "result": f"not run: {why}"}


def keep(results: Path, page: Path, name: str, found: dict[str, Any]) -> None:
    """Put a line in the place of its older one, and write the page anew."""
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    known[name] = found
    results.parent.mkdir(parents=True, exist_ok=True)
    older = page.read_text(encoding="utf-8") if page.exists() else ""
    texts = json.dumps(known, indent=1) + "\n", render(known, older)
    for file, text in zip((results, page), texts, strict=True):
        new = file.with_name(f".{file.name}.new")  # a file is whole, whatever comes
        new.write_text(text, encoding="utf-8")
        new.replace(file)


def render(known: dict[str, Any], older: str) -> str:
    """The page: a line without results keeps what stands of it in an older page."""
    rows, notes, lines = [], [], older.splitlines()
    for name, (_, about) in LINES.items():
        if name not in known:
            kept = [line for line in lines if line.startswith(f"| {name} |")]
            rows += kept or [f"| {name} | {about} |  |  | not run: not asked for |"]
            notes += [line for line in lines if line.startswith(f"- {name}, ")]
            continue
        for check in known[name]["checks"]:
            cells = (check[key].replace("|", "/") for key in ("what", "found", "wanted", "result"))
            rows.append(f"| {name} | {' | '.join(cells)} |")
        notes.append(f"- {name}, {about}: {known[name]['about']}.")
    return HEAD + "\n".join((*rows, "", *notes, ""))


if __name__ == "__main__":
    main()
