"""The entries of a recipe's dvc.lock that belong to one model, and to none trained before or after.

    stages = read(Path("pipelines/mine/dvc.lock"))
    before_training(stages, tokens)     # what has run when a training starts
    of_model(stages, model)             # `train`, and the stages before and after it

A stage belongs to another if it took the very bytes that the other wrote. DVC writes a stage's
entry when the stage has ended: so a training finds those before it, `eval` that of the training.
"""

import tempfile
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nanogpt.common import states
from nanogpt.tracking.run import RECORDS

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK = f"{RECORDS}/dvc.lock"  # the artifact
Stages = dict[str, Any]  # as dvc.lock has them, by name
BEFORE = ("check", "download", "tokenize")


def read(path: Path) -> Stages:
    """The stages of a dvc.lock; none if it is not there, or is damaged, as by a merge."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def parse(text: str) -> Stages:
    """The stages in a dvc.lock's text.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return dict(YAML(typ="safe", pure=True).load(text)["stages"])
    except (YAMLError, KeyError, TypeError):
        raise ValueError("not a dvc.lock") from None


def dump(stages: Stages) -> str:
    """A dvc.lock of these stages, as DVC reads it."""
    out, yaml = StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump({"schema": "2.0", "stages": stages}, out)
    return out.getvalue()


def add(client: "MlflowClient", run_id: str, stages: Stages) -> None:
    """Add stages to the lock that is with a run, in the place of what it had of them."""
    there = [file.path for file in client.list_artifacts(run_id, RECORDS)]
    known: Stages = {}
    if LOCK in there:
        with tempfile.TemporaryDirectory() as place:
            known = read(Path(client.download_artifacts(run_id, LOCK, place)))
    if there and known != known | stages:  # a run of before there were records gets none
        client.log_text(run_id, dump(known | stages), LOCK)


def before_training(stages: Stages, tokens: Path) -> Stages:
    """The stages that made these tokens, if the lock is of them."""
    earlier = {name: stages[name] for name in BEFORE if name in stages}
    return _chain(earlier, "tokenize") if _made(stages.get("tokenize"), tokens) else {}


def of_model(stages: Stages, model: Path) -> Stages:
    """The stages that made this model, and that took it, if the lock is of it."""
    return _chain(stages, "train") if _made(stages.get("train"), model) else {}


def _made(stage: Any, folder: Path) -> bool:
    """Whether a stage wrote this folder, as it is now."""
    for out in stage.get("outs", []) if isinstance(stage, dict) else []:
        path = Path(out["path"])  # seen from the root, where commands need not be
        if path.parts == folder.parts[-len(path.parts) :]:
            sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
            if (out.get("size"), out.get("nfiles")) != (sum(sizes), len(sizes)):
                return False
            return bool(out.get("md5") == states.dvc_md5(folder))
    return False


def _chain(stages: Stages, name: str) -> Stages:
    """A stage, and all that are joined to it by the same bytes."""
    known = {name}
    while more := [
        other for other in stages if other not in known and _joined(stages[other], stages, known)
    ]:
        known.add(more[0])  # one at a time: of two that do not fit each other the first counts
    return {name: stage for name, stage in stages.items() if name in known}


def _joined(stage: Any, stages: Stages, known: set[str]) -> bool:
    """Whether a stage takes what these made, or made what they take, and all of it the same."""
    same = []
    for name in known:
        for made, taken in ((stage, stages[name]), (stages[name], stage)):
            outs, deps = _hashes(made, "outs"), _hashes(taken, "deps")
            same += [outs[path] == deps[path] for path in outs.keys() & deps.keys()]
    return bool(same) and all(same)


def _hashes(stage: Any, kind: str) -> dict[str, str]:
    """Hashes by path of a stage's `outs` or `deps`."""
    found = stage.get(kind, []) if isinstance(stage, dict) else []
    return {str(each["path"]): str(each.get("md5")) for each in found}
