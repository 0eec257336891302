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

QUICK_START = ROOT / "pipelines/tiny_shakespeare_nanogpt/params.yaml"  # nanoGPT's, as a recipe
WARM_UP = 1 / 3  # of the steps, which no figure of speed counts: mlflow is imported beside them
VALIDATION = re.compile(r"step (\d+): train loss")
ITERATION = re.compile(r"iter (\d+): loss")


@dataclass
class Training:
    """What is known of a training; seconds count from the start of its command."""

    command: Finished
    first_step: float  # when the first step that is printed or recorded was done
    step_seconds: float  # mean over the steps after the WARM_UP, without validation
    losses: list[dict[str, float]] = field(default_factory=list)  # step, seconds, loss (whole val)


class Ours:
    """This project's side: a folder with a text, its tokens, and MLflow's database."""

    def __init__(self, folder: Path, corpus: str) -> None:
        self.folder = folder
        self.text = folder / "input.txt"
        # a root of its own, so no record comes from or goes to the user's
        (folder / ".dvc").mkdir()
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        self._numbers = itertools.count()
        self.tokens = self.tokenize(corpus, val=0.1)
        raw = self.tokens.with_name("raw") / "corpus"
        shutil.copy(next(raw.iterdir()), self.text)

    def tokenize(self, corpus: str, val: float) -> Path:
        """The folder of tokens that the first two stages make of a corpus, by characters."""
        cut = {"tokenizer": "char", "val": val, "test": 0.0}
        recipe = self.recipe(QUICK_START, download={"corpus": corpus}, tokenize=cut)
        for stage in ("download", "tokenize"):
            run(*self.command(stage, recipe), cwd=recipe)
        return recipe / "data" / recipe.name / "tokens"

    def recipe(self, source: Path, tokens: Path | None = None, **changes: Any) -> Path:
        """A folder of its own with the settings of `source`, changed section by section."""
        name = f"run{next(self._numbers)}"
        values = yaml.safe_load(source.read_text())
        for section, change in changes.items():
            values[section] = values[section] | change if isinstance(change, dict) else change
        values |= {"code": str(ROOT / "nanogpt"), "data": f"data/{name}"}
        folder = self.folder / name
        (folder / "data" / name).mkdir(parents=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(values))
        if tokens:
            (folder / "data" / name / "tokens").symlink_to(tokens)
        return folder

    def command(self, stage: str, recipe: Path) -> list[str]:
        """A stage's command without `python`, as dvc.yaml has it."""
        stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
        words: list[str] = stages[stage]["cmd"].split()[1:]
        return [word.replace("${data}", f"data/{recipe.name}") for word in words]

    def train(
        self, source: Path, cores: int = CORES, tokens: Path | None = None, **changes: Any
    ) -> tuple[Training, Path]:
        """Train a recipe; what is known of it, and the folder of the model."""
        machine = {"device": "cpu", "threads": cores} | changes.pop("machine", {})
        recipe = self.recipe(source, tokens or self.tokens, machine=machine, **changes)
        command = self.command("train", recipe)
        done = run(*command, cwd=recipe, cores=cores, MLFLOW_TRACKING_URI=self.database)
        speeds, validations = (
            self._logged(recipe.name, key, done.began) for key in ("step_ms", "val_loss")
        )
        if not validations:
            raise SystemExit(f"bench: MLflow has no metrics of {recipe}:\n{done.text}")
        last = speeds[-1]["step"]
        steady = [s["value"] for s in speeds if s["step"] > WARM_UP * last]
        losses = [{"step": v["step"], "seconds": v["at"], "loss": v["value"]} for v in validations]
        training = Training(done, speeds[0]["at"], statistics.fmean(steady) / 1000, losses)
        return training, recipe / "data" / recipe.name / "model"

    def score(self, model: Path, context: int, cores: int) -> dict[str, float]:
        """Loss over the whole validation split, in float32, and the seconds that it took."""
        return _score(self.folder, self.tokens, context, cores, model)[0]

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
    """A copy of nanoGPT, whose own script has prepared the same text."""

    def __init__(self, folder: Path, peer: Path, ours: Ours) -> None:
        self.folder, self.tokens = folder, ours.tokens
        ignored = shutil.ignore_patterns(".git", "*.bin", "*.pkl", "out*")
        shutil.copytree(peer, folder, ignore=ignored)
        data = folder / "data/shakespeare_char"
        shutil.copy(ours.text, data / "input.txt")
        run("prepare.py", cwd=data)
        for split in ("train.bin", "val.bin"):
            if (data / split).read_bytes() != (ours.tokens / split).read_bytes():
                raise SystemExit(f"bench: the two sides do not have the same {split}")

    def train(self, flags: list[str], cores: int = CORES, seed: int = 1337) -> Training:
        """Train with these arguments; its checkpoints are kept until the next training."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        (self.folder / "out").mkdir()
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
        count, seconds = (sum(values) for values in zip(*spans, strict=True))
        return Training(done, printed[0][1], seconds / count)

    def score(self, training: Training, context: int, cores: int) -> dict[str, float]:
        """Score every checkpoint; `training.losses` gets them. The last one's whole score."""
        files = sorted((self.folder / "out").glob("*.safetensors"))
        scores = _score(self.folder, self.tokens, context, cores, *files)
        training.losses = [
            {
                "step": s["step"],
                "seconds": s["time"] - training.command.began,
                "loss": s["loss"],
            }
            for s in scores
        ]
        return scores[-1]


def _score(
    cwd: Path, tokens: Path, context: int, cores: int, *models: Path
) -> list[dict[str, float]]:
    words = map(str, (tokens / "val.bin", context, *models))
    printed = run("-m", "benchmarks.score", *words, cwd=cwd, cores=cores)
    scores: list[dict[str, float]] = json.loads(printed.lines[-1][1])
    return scores
