"""What a rebuild is about to do, and what of it may keep the bytes from being the same."""

from collections.abc import Iterator

from dvc.repo import Repo
from dvc.utils.serialize import load_yaml

from pipelines.environment import MINUTES, differing, is_here, is_made, which
from pipelines.rebuild import ASKED, Rebuild

Line = tuple[str, str]  # what it is about, and what is to be done
# of a machine's record, by the words of a person; what decides how sums are rounded
KINDS = {
    "processor": "processor",
    "instruction_set": "instruction set",
    "blas": "BLAS",
    "torch_build": "build of torch",
    "cuda": "CUDA",
    "device_name": "GPU",
}
BY_TORCH = {"blas", "torch_build", "cuda"}  # they come with the environment


def plan(rebuild: Rebuild) -> Iterator[Line]:
    """The code, the settings, the environment, the data and the place, a line each."""
    origin = rebuild.origin
    changed = ", with what was changed and not committed" if origin.diff else ""
    yield "code", f"commit {origin.commit[:10]}{changed}"
    yield "settings", f"{origin.settings}, as recorded"
    yield "environment", _environment(rebuild)
    yield "data", _data(rebuild)
    yield "machine", " ".join(f"{key}={rebuild.machine[key]}" for key in ASKED)
    going_on = "; going on in it" if rebuild.ready.exists() and rebuild.copy.exists() else ""
    yield "place", f"{rebuild.copy.relative_to(rebuild.top)}{going_on}"


def doubts(rebuild: Rebuild) -> list[str]:
    """Why the bytes may differ, so that `equivalent` is the best to expect; perhaps no reason."""
    here, record = rebuild.here, rebuild.origin.record
    machine = record.machine
    found = []
    for key, name in KINDS.items():
        before = getattr(machine, key)
        now = here[key] if machine.device in here["devices"] or key != "device_name" else None
        if rebuild.other and key in BY_TORCH:
            continue
        if before != now:
            told = "" if key == "torch_build" else f": {now or 'none'}, and {before or 'none'} then"
            found.append(f"another {name}{told}")
    if machine.device not in here["devices"]:
        found.append(f"it was trained on {machine.device}, which this machine does not have")
    if machine.threads > (cores := here["cores"]):
        found.append(f"it was trained on {machine.threads} threads, and there are {cores} cores")
    if machine.device == "cuda" and machine.processes > here["gpus"]:
        found.append(f"it was trained on {machine.processes} GPUs, and there are {here['gpus']}")
    if differing(rebuild.packages) and not rebuild.other:
        found.append("other versions of packages, as asked")
    # an environment of its own has another Python only where the right one is not installed
    if not is_here(record.python) and not (rebuild.other and which(record.python)):
        found.append(f"it ran on Python {record.python}, which is not here")
    if len(record.code) > 1:
        found.append(
            f"{len(record.code)} versions of the code took part in its training, which went on;"
            " the last of them makes all steps here"
        )
    if record.resumed:
        found.append("its training went on on another machine, or with other packages")
    if not machine.deterministic:
        found.append(
            "machine.deterministic was false, or it ran on MPS: nothing repeats it exactly"
        )
    if load_yaml(str(rebuild.origin.folder / "params.yaml"))["train"].get("max_minutes"):
        found.append("train.max_minutes ended it, or may have: that depends on the speed")
    return found


def _environment(rebuild: Rebuild) -> str:
    count = f"{len(rebuild.packages)} packages"
    if not rebuild.other:
        if odd := differing(rebuild.packages):
            return f"the one here, as asked, though {_some(odd)}"
        return f"the one here: its {count} are those that were recorded"
    if is_made(rebuild.folder):
        return f"that of an earlier rebuild, {rebuild.folder.relative_to(rebuild.top)}"
    return (
        f"one of its own, as {_some(rebuild.other)}: {count}, {MINUTES}; kept in"
        f" {rebuild.folder.relative_to(rebuild.top)} (ENVIRONMENT=this takes the one here)"
    )


def _some(odd: dict[str, tuple[str, str | None]]) -> str:
    """Some of the packages that differ."""
    told = [f"{name} is {now or 'absent'} and was {then}" for name, (then, now) in odd.items()]
    return ", ".join(told[:3]) + (f" and {len(told) - 3} more differ" if len(told) > 3 else "")


def _data(rebuild: Rebuild) -> str:
    sources = rebuild.origin.record.sources
    with Repo(str(rebuild.top)) as repo:
        if rebuild.cached(repo):
            return "from DVC's cache"
        remotes = ", ".join(repo.config["remote"])
    parts = (sources.get("corpus") or {}, sources.get("base") or {})
    places = " and ".join(part.get("source") or part["name"] for part in parts if part.get("name"))
    again = f"downloaded again: {places}"
    return f"from DVC's remote ({remotes}), if it has them; else {again}" if remotes else again
