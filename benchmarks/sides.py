"""The two sides: one text, prepared for each, and trainings of each as a user would start them."""

import itertools
import json
import re
import shutil
import sqlite3
import statistics
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes import CORES, ROOT, Finished, run
from nanogpt.common.errors import UserError

QUICK_START = ROOT / "pipelines/tiny_shakespeare_nanogpt/params.yaml"  # nanoGPT's, as a recipe
WARM_UP = 1 / 3  # of the steps, which no speed counts: mlflow is imported in the background
VALIDATION = re.compile(r"step (\d+): train loss")
ITERATION = re.compile(r"iter (\d+): loss")
NEEDED = ("train.py", "model.py", "data/shakespeare_char/prepare.py")  # of a checkout of nanoGPT


@dataclass
class Training:
    """What is known of a training; seconds count from the start of its command."""

    command: Finished
    model: Path  # the folder of what it left: ours a model, theirs checkpoints
    first_step: float  # when the first step that is printed or recorded was done
    step_seconds: float  # mean over the steps after the WARM_UP, without validation
    losses: list[dict[str, float]] = field(default_factory=list)  # step, seconds, loss (whole val)
    score: dict[str, float] = field(default_factory=dict)  # of the last weights: loss, seconds

    def until(self, target: float) -> tuple[float, float, bool]:
        """Seconds of the command and of the steps alone until the validation that found `target`.

        The last value says whether one did; if none, all of the training is counted.
        """
        end = {"seconds": self.command.seconds, "step": self.losses[-1]["step"]}
        reached = next((point for point in self.losses if point["loss"] <= target), None)
        point = reached or end
        return point["seconds"], point["step"] * self.step_seconds, reached is not None


class Ours:
    """This project's side: a checkout with a text, its tokens, recipes and MLflow's database."""

    def __init__(self, folder: Path, corpus: str) -> None:
        self.folder = folder
        # a root of its own, so no record comes from or goes to the user's
        (folder / ".dvc").mkdir()
        (folder / "nanogpt").symlink_to(ROOT / "nanogpt")
        self._numbers = itertools.count()
        self.tokens = self.tokenize(corpus, val=0.1)
        self.text = next((self.tokens.with_name("raw") / "corpus").iterdir())

    def tokenize(self, corpus: str, val: float) -> Path:
        """The folder of tokens that the first two stages make of a corpus, by characters."""
        cut = {"tokenizer": "char", "val": val, "test": 0.0}
        recipe = self.recipe(QUICK_START, download={"corpus": corpus}, tokenize=cut)
        for stage in ("download", "tokenize"):
            self.run(stage, recipe)
        return self.folder / "data" / recipe / "tokens"

    def recipe(self, source: Path, tokens: Path | None = None, **changes: Any) -> str:
        """The name of a new recipe: the settings of `source`, changed section by section."""
        name = f"run{next(self._numbers)}"
        values = yaml.safe_load(source.read_text(encoding="utf-8"))
        for section, change in changes.items():
            values[section] = values[section] | change if isinstance(change, dict) else change
        values |= {"root": ".", "params": f"{name}.yaml", "data": f"data/{name}"}
        data = self.folder / "data" / name
        data.mkdir(parents=True)
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        if tokens:
            (data / "tokens").symlink_to(tokens)
            (data / "base").symlink_to(self.tokens.with_name("base"))  # which says: none
        return name

    def run(self, stage: str, recipe: str, cores: int = CORES) -> Finished:
        """Run a stage, as dvc.yaml does."""
        return self.python("-m", f"nanogpt.stages.{stage}", f"{recipe}.yaml", cores=cores)

    def python(self, *command: str, cores: int = CORES) -> Finished:
        """Run python here, with a tracking database of our own."""
        database = f"sqlite:///{self.folder / 'mlflow.db'}"
        return run(*command, cwd=self.folder, cores=cores, MLFLOW_TRACKING_URI=database)

    def train(
        self, source: Path, cores: int = CORES, tokens: Path | None = None, **changes: Any
    ) -> Training:
        """Train a recipe."""
        machine = {"device": "cpu", "threads": cores} | changes.pop("machine", {})
        recipe = self.recipe(source, tokens or self.tokens, machine=machine, **changes)
        done = self.run("train", recipe, cores)
        speeds, validations = (
            self._logged(recipe, key, done.began) for key in ("step_ms", "val_loss")
        )
        if not speeds or not validations:
            raise ChildProcessError(f"MLflow has no metrics of {recipe}:\n{done.text}")
        last = speeds[-1]["step"]
        steady = [s["value"] for s in speeds if s["step"] > WARM_UP * last]
        losses = [{"step": v["step"], "seconds": v["at"], "loss": v["value"]} for v in validations]
        model = self.folder / "data" / recipe / "model"
        return Training(done, model, speeds[0]["at"], statistics.fmean(steady) / 1000, losses)

    def score(self, training: Training, context: int, cores: int) -> None:
        """Score the published weights on the whole validation split, in float32."""
        training.score = _score(self.folder, self.tokens, context, cores, training.model)[0]

    def _logged(self, experiment: str, key: str, began: float) -> list[dict[str, float]]:
        # straight from MLflow's database: importing mlflow would make this process a large one
        query = """
            SELECT step, timestamp, value FROM metrics JOIN runs USING (run_uuid)
            JOIN experiments USING (experiment_id)
            WHERE experiments.name = ? AND key = ? ORDER BY step"""
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            rows = database.execute(query, (experiment, key)).fetchall()
        return [{"step": s, "at": at / 1000 - began, "value": value} for s, at, value in rows]


class Theirs:
    """A copy of nanoGPT, whose own script prepares the same text."""

    def __init__(self, folder: Path, peer: Path, ours: Ours) -> None:
        self.folder, self.tokens = folder, ours.tokens
        ignored = shutil.ignore_patterns(".git", "*.bin", "*.pkl", "out*")
        shutil.copytree(peer, folder, ignore=ignored)
        data = folder / "data/shakespeare_char"
        shutil.copy(ours.text, data / "input.txt")
        run("prepare.py", cwd=data)
        for split in ("train.bin", "val.bin"):
            if (data / split).read_bytes() != (ours.tokens / split).read_bytes():
                raise UserError(f"PEER: its prepare.py makes another {split} of the text than ours")

    def train(self, flags: list[str], cores: int = CORES, seed: int = 1337) -> Training:
        """Train with these arguments; its checkpoints are kept until the next training."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        command = ["-m", "benchmarks.peer_train", str(seed), "out", *flags]
        done = run(*command, "--out_dir=out", cwd=self.folder, cores=cores)
        validations = {int(m[1]) for _, line in done.lines if (m := VALIDATION.match(line))}
        printed = [(int(m[1]), at) for at, line in done.lines if (m := ITERATION.match(line))]
        spans = [
            (last - first, end - begin)
            for (first, begin), (last, end) in itertools.pairwise(printed)
            if first >= WARM_UP * printed[-1][0]
            and validations.isdisjoint(range(first + 1, last + 1))
        ]
        if not spans:
            raise ChildProcessError(f"nanoGPT printed too few steps:\n{done.text}")
        count, seconds = (sum(values) for values in zip(*spans, strict=True))
        return Training(done, out, printed[0][1], seconds / count)

    def score(self, training: Training, context: int, cores: int) -> None:
        """Score every checkpoint as ours are: `training.losses`, and the last one's whole score."""
        files = sorted(training.model.glob("*.safetensors"))
        scores = _score(self.folder, self.tokens, context, cores, *files)
        began = training.command.began
        training.losses = [
            {"step": s["step"], "seconds": s["time"] - began, "loss": s["loss"]} for s in scores
        ]
        training.score = scores[-1]


def _score(
    cwd: Path, tokens: Path, context: int, cores: int, *models: Path
) -> list[dict[str, float]]:
    words = map(str, (tokens / "val.bin", context, *models))
    printed = run("-m", "benchmarks.score", *words, cwd=cwd, cores=cores)
    scores: list[dict[str, float]] = json.loads(printed.lines[-1][1])
    return scores
