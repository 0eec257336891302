"""Build a registered version again, from what was recorded of it, and compare.

    python -m pipelines.reproduce models:/nanogpt-shakespeare/3            # also `make reproduce`
    python -m pipelines.reproduce models:/nanogpt-shakespeare/3 --plan     # says what it would do

It takes place in a git worktree of the recorded commit, with MLflow records of its own: the
registry gets a verdict, and no second version. Stopped, the same command goes on.

Exit codes: 0 identical, or equivalent; 1 different; else as `make run`.
"""

import argparse
import json
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the imports, which take time

from dvc.utils.serialize import load_yaml
from filelock import FileLock, Timeout
from rich.console import Console

from pipelines import exits
from pipelines.graph import NotNow, RecipeError, one_line, root
from pipelines.origin import find_origin, nanogpt
from pipelines.plan import doubts, plan
from pipelines.rebuild import OtherInput, Rebuild
from pipelines.run import telling_on
from pipelines.verdict import Distance, Verdict, compare, judge, other_code, table


def reproduce(model: str, this_environment: bool, only_plan: bool, keep: bool) -> int:
    """Build a version again; returns the exit code.

    Raises:
        RecipeError: it cannot be built again; says why.
        NotNow: or not now.
    """
    top = root()
    with tempfile.TemporaryDirectory() as temporary:
        origin = find_origin(model, Path(temporary, "lineage"), top)
        rebuild = Rebuild(origin, top, this_environment)
        _tell(rebuild)
        if only_plan:
            return 0
        rebuild.copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{rebuild.copy}.lock", timeout=0):
                return _rebuild(rebuild, keep)
        except Timeout:
            raise NotNow(f"{origin.model} is being built again already; wait for its end") from None


def _tell(rebuild: Rebuild) -> None:
    """Say beforehand what is about to be done, and what is to be expected."""
    print(f"{rebuild.origin.model} is to be built again")
    for about, what in plan(rebuild):
        print(f"  {about:12} {what}")
    reasons = doubts(rebuild)
    for reason in reasons:
        print(f"  {'but':12} {reason}")
    print(
        "the bytes may differ, so `equivalent` is the best to expect"
        if reasons
        else "the same bytes are to be expected",
        flush=True,
    )


def _rebuild(rebuild: Rebuild, keep: bool) -> int:
    rebuild.prepare()
    origin, copy = rebuild.origin, rebuild.copy
    try:
        if code := rebuild.run():
            if code - 128 not in exits.STOPS:  # which the stage has said
                print(f"reproduce: the same command goes on in {copy}", file=sys.stderr)
            return code
        distance = _distance(rebuild)
        rows = compare(origin, copy, distance)
        verdict = judge(origin, rows, copy, distance)
        Console(highlight=False).print(table(origin.model, rows))
        made = load_yaml(str(copy / rebuild.recipe / "dvc.lock"))["stages"]
        for path in other_code(origin, made):
            print(f"{path} is not as it was recorded: the code that trained it was another")
    except OtherInput as error:
        verdict = Verdict("different", str(error))
    print(f"{origin.model}: {verdict}")
    _keep(rebuild, verdict)
    if keep or verdict.code:  # else nobody could look into it
        rebuild.ready.unlink(missing_ok=True)  # the next rebuild computes anew
        print(f"what came out is in {copy}; `git worktree remove --force {copy}` removes it")
    else:
        rebuild.remove()
    return verdict.code


def _distance(rebuild: Rebuild) -> Distance | None:
    """How far the rebuilt model is from that in MLflow, if it still has it."""
    data = rebuild.copy / rebuild.origin.data
    context = load_yaml(str(rebuild.origin.folder / "params.yaml"))["model"]["context"]
    options = (f"--tokens={data / 'tokens'}", f"--context={context}", "--json")
    try:
        found: Distance = json.loads(
            nanogpt("differ", *options, "--", rebuild.origin.model, str(data / "model"))
        )
    except RecipeError as error:
        print(f"reproduce: compared by digests alone: {error}", file=sys.stderr)
        return None
    return found


def _keep(rebuild: Rebuild, verdict: Verdict) -> None:
    """Keep the verdict with the version."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    where = f"{rebuild.here['processor']}, {rebuild.here['instruction_set']}"
    line = f"{now}, on {where}: {verdict}"
    try:
        nanogpt("reproduced", f"--verdict={line}", "--", rebuild.origin.model)
    except RecipeError as error:
        print(f"reproduce: MLflow does not take the verdict: {error}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="models:/<name>/<version> or models:/<name>@<alias>")
    parser.add_argument("--plan", action="store_true", help="say what would be done, and end")
    parser.add_argument("--keep", action="store_true", help="leave what came out in its folder")
    parser.add_argument(
        "--environment",
        choices=["recorded", "this"],
        default="recorded",
        help="that of its commit, or the one here whatever is in it",
    )
    args = parser.parse_args()
    with one_line("reproduce"), telling_on():
        sys.exit(reproduce(args.model, args.environment == "this", args.plan, args.keep))


if __name__ == "__main__":
    main()
