"""A registered version in a git worktree of its commit, with its settings and its data: to run.

rebuild = Rebuild(origin, top, this_environment=False)
rebuild.prepare()
code = rebuild.run()        # 0: data/ in `rebuild.copy` holds what came out
"""

import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import dump_yaml, modify_yaml
from dvc_data.hashfile import check, load
from dvc_data.hashfile.hash_info import HashInfo
from dvc_objects.errors import ObjectFormatError

from pipelines import environment, exits, worktree
from pipelines.graph import RecipeError, adopt, dvc_environment, stages
from pipelines.origin import Origin, nanogpt
from pipelines.run import mend_locks, wait_for
from pipelines.verdict import digests, tree, wrong_input

COPIES = Path(".dvc", "tmp", "reproduce")
FIRST = ("check", "download")  # whose outputs may come from DVC's cache or a remote
BROUGHT = "brought"  # they did
TRACKING = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
SILENT = {"DO_NOT_TRACK": "true", "DVC_NO_ANALYTICS": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
ASKED = ("device", "dtype", "compile", "parallel", "processes", "threads")  # settings, as recorded
SPARE = 200 << 20  # bytes: the code, MLflow's records, curves


class OtherInput(RecipeError):
    """The text or the base is not the recorded one; the message names the first file."""

    code = 1


class Rebuild:
    """A version that is to be built again: where, and by which environment."""

    def __init__(self, origin: Origin, top: Path, this_environment: bool) -> None:
        self.origin, self.top = origin, top
        self.recipe = origin.settings.parent  # seen from the root
        name = f"{origin.model.removeprefix('models:/').replace('/', '-')}-{origin.key}"
        self.copy = top / COPIES / name
        self.ready = Path(f"{self.copy}.ready")  # is there while the copy is to be gone on with
        self.here: dict[str, Any] = json.loads(nanogpt("machine"))
        self.packages = self._packages()
        self.other = {} if this_environment else environment.differing(self.packages)
        self.folder = environment.place(
            self.packages, origin.record.python, top / COPIES / "environments"
        )

    def _packages(self) -> dict[str, str]:
        """Versions of the packages that the code of the commit is to have."""
        with tempfile.TemporaryDirectory() as temporary:
            for name in ("requirements.lock", "pyproject.toml"):
                done = worktree.run(["git", "show", f"{self.origin.commit}:{name}"], self.top)
                if done.returncode == 0:
                    Path(temporary, name).write_text(done.stdout, encoding="utf-8")
            return environment.versions(Path(temporary), self.origin.record.packages)

    @property
    def python(self) -> str:
        """The interpreter that runs it."""
        return str(self.folder / "bin" / "python") if self.other else sys.executable

    @property
    def machine(self) -> dict[str, Any]:
        """Settings of the section `machine`, by which the same bytes are to be expected."""
        recorded = self.origin.record.machine
        wanted = {key: getattr(recorded, key) for key in ASKED}
        if wanted["device"] not in self.here["devices"]:
            wanted |= {"device": "auto", "dtype": "auto", "compile": "auto"}
        if wanted["threads"] > self.here["cores"]:
            wanted["threads"] = "auto"
        return wanted | {"nodes": 1, "rendezvous": None}

    def prepare(self) -> None:
        """Make the worktree and the environment; what a stopped rebuild has left is gone on with.

        Raises:
            RecipeError: git or pip cannot, or there is no room.
        """
        if self.other and not environment.is_made(self.folder):
            environment.make(self.packages, self.origin.record.python, self.folder)
        there = worktree.mend(self.copy, self.top)
        if there and self.ready.exists():
            self._share()  # the checkout may have been moved since, or know other remotes
            return
        if there:
            worktree.remove(self.copy, self.top)  # it was not complete, or has been compared
        self.ready.unlink(missing_ok=True)
        self._check_room()
        try:
            worktree.add(self.copy, self.top, self.origin.commit)
            if self.origin.diff:
                worktree.git(self.copy, "apply", "--whitespace=nowarn", str(self.origin.diff))
            self._settle()
            brought = self._bring()
        except BaseException:
            if self.copy.exists():
                worktree.remove(self.copy, self.top)
            raise
        self.ready.write_text(BROUGHT if brought else "", encoding="utf-8")

    def _check_room(self) -> None:
        """Refuse what would end with a full disk: tokens, and the model in several forms."""
        outs = [out for stage in self.origin.stages.values() for out in stage.get("outs", [])]
        sizes = {Path(out["path"]).name: int(out.get("size") or 0) for out in outs}
        # the model: its files, those in MLflow, weights and moments twice in saves
        needed = SPARE + sizes.get("tokens", 0) + 10 * sizes.get("model", 0)
        if (free := shutil.disk_usage(self.copy.parent).free) < needed:
            raise RecipeError(
                f"{self.origin.model} needs about {needed >> 20:,} MiB to be built again, and"
                f" {self.copy.parent} has {free >> 20:,} MiB left; make room"
            )

    def _settle(self) -> None:
        """Write the recorded settings, and have DVC know the recipe, the cache and the remotes."""
        params = self.copy / self.origin.settings
        params.parent.mkdir(parents=True, exist_ok=True)
        recorded = (self.origin.folder / "params.yaml").read_bytes()
        if not params.exists() or params.read_bytes() != recorded:
            params.write_bytes(recorded)
        with modify_yaml(str(params)) as values:
            known = values["machine"]
            known |= {key: value for key, value in self.machine.items() if key in known}
        adopt(params.parent, self.copy)
        self._share()

    def _share(self) -> None:
        worktree.share_cache(self.copy, self.top)
        worktree.share_remotes(self.copy, self.top)

    def run(self) -> int:
        """Run all stages that make or take the model; a text and a base of before are brought.

        Returns:
            The exit code of the stage that failed.

        Raises:
            OtherInput: the text or the base cannot be had as it was.
            KeyboardInterrupt: Ctrl-C was pressed; it has ended since.
        """
        mend_locks(self.copy)
        plan = stages(self.copy / self.recipe, self.copy)
        first = [stage.address for stage in plan if stage.name in FIRST]
        if self.ready.read_text("utf-8") != BROUGHT:
            # a base of the registry is in that of the checkout
            code = self._dvc("repro", "--no-run-cache", *first, **{TRACKING: self._registry()})
            if code == 2:
                print(
                    "reproduce: neither DVC's cache nor a remote has the text and the base as they"
                    " were, and they cannot be had again; in the clone that trained it, `dvc push`",
                    file=sys.stderr,
                )
            if code:
                return code
            if odd := wrong_input(self.origin, self.copy / self.origin.data):
                raise OtherInput(f"download is the first stage that differs, in {odd}")
        rest = [stage.address for stage in plan if stage.address not in first]
        # not from DVC's memory of earlier runs: to compute is the point
        return self._dvc("repro", "--no-run-cache", "--single-item", *rest)

    def _bring(self) -> bool:
        """Have DVC bring the text and the base from its cache or a remote; whether they are right.

        All of both is read: what lies in a cache may be damaged.
        """
        lock = self.copy / self.recipe / "dvc.lock"
        lock.unlink(missing_ok=True)
        known = {name: self.origin.stages[name] for name in FIRST if name in self.origin.stages}
        if set(known) != {*FIRST}:
            return False
        dump_yaml(str(lock), {"schema": "2.0", "stages": known})
        targets = [f"{lock.with_name('dvc.yaml')}:{name}" for name in FIRST]
        with Repo(str(self.copy)) as repo:
            self._check_out(repo, targets)
            if self._remove_damaged(repo):
                self._check_out(repo, targets)
        if wrong_input(self.origin, self.copy / self.origin.data) is None:
            return True
        lock.unlink()
        return False

    def _check_out(self, repo: Any, targets: list[str]) -> None:
        with suppress(DvcException):  # what is lacking is seen afterwards
            if not self.cached(repo) and repo.config["remote"]:
                repo.fetch(targets)
            repo.checkout(targets, force=True)

    def _remove_damaged(self, repo: Any) -> bool:
        """Remove from DVC's cache what has other bytes than its name says; whether there was any.

        DVC trusts what is write-protected there, unread, and would hand it out for ever.
        """
        damaged = set()
        for out in self._inputs():
            found, listed = digests(self.copy / out["path"]), tree(repo, out["md5"])
            names = listed.keys() or {""}
            known = listed or {"": out["md5"]}
            damaged |= {known[name] for name in names & found.keys() if found[name] != known[name]}
        for md5 in damaged:
            print(f"reproduce: {md5} in DVC's cache is damaged; removed", file=sys.stderr)
            repo.cache.local.delete(md5)
        return bool(damaged)

    def _inputs(self) -> list[dict[str, Any]]:
        """The recorded outputs of the stages that bring the text and the base."""
        stages = self.origin.stages
        return [out for name in FIRST for out in stages.get(name, {}).get("outs", [])]

    def cached(self, repo: Any) -> bool:
        """Whether DVC's cache of a repository has the text and the base as they were."""
        try:
            for out in (outs := self._inputs()):
                check(repo.cache.local, load(repo.cache.local, HashInfo("md5", out["md5"])))
        except (FileNotFoundError, ObjectFormatError):
            return False
        return bool(outs)

    def _registry(self) -> str:
        """MLflow's address of the checkout, from wherever it is asked."""
        uri = os.environ.get(TRACKING) or f"{SQLITE}mlflow.db"
        if not uri.startswith(SQLITE):
            return uri
        return f"{SQLITE}{(self.top / uri.removeprefix(SQLITE)).as_posix()}"

    def _dvc(self, *words: str, **more: str) -> int:
        """Run DVC in the copy, with the code that lies there and the environment of that code."""
        wanted, known = self.origin.record.machine.variables, self.here["variables"]
        hidden = {*worktree.ELSEWHERE, *known, TRACKING, "PYTHONPATH", "DVC_EXP_NAME"}
        env = {key: value for key, value in dvc_environment().items() if key not in hidden}
        env["PATH"] = f"{Path(self.python).parent}{os.pathsep}{env['PATH']}"
        # -P: the modules beside that file are not those of the commit
        script = ("-P", exits.__file__, *words)
        env |= SILENT | wanted | more
        return wait_for(*script, folder=self.copy, python=self.python, env=env)

    def remove(self) -> None:
        """Remove the worktree with all that came out."""
        self.ready.unlink(missing_ok=True)
        worktree.remove(self.copy, self.top)
