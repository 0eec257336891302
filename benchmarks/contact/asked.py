"""What `make gpu` was given, what a check is, and nanoGPT beside us."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.contact.training import Data, characters, settings_of
from benchmarks.processes import ROOT
from nanogpt.settings import FromScratch

# for the tests: what comes out says nothing but that it runs
QUICK = {
    "n_layer": 2,
    "n_head": 2,
    "n_kv_head": 2,
    "n_embd": 32,
    "n_inner": 64,
    "context": 32,
}


@dataclass(frozen=True)
class Check:
    what: str
    found: str
    wanted: str = ""
    result: str = "figure"  # or passed, failed, not run: why


def check(what: str, found: object, wanted: str, passed: bool) -> Check:
    return Check(what, str(found), wanted, "passed" if passed else "failed")


@dataclass(frozen=True)
class Asked:
    """What `make gpu` was given."""

    device: str
    began: float  # when this process was started: seconds since 1970
    quick: bool = False
    text: str | None = None
    peer: str | None = None

    def settings(self, recipe: Path, steps: int, **sections: dict[str, Any]) -> FromScratch:
        """Settings of a short training; all that ends by steps ends with it."""
        steps = 4 if self.quick else steps
        ends = {"steps": steps, "decay_steps": steps, "warmup_steps": 0, "eval_interval": steps}
        quick = {"batch_size": 8, "log_interval": 1} if self.quick else {}
        sections["train"] = ends | sections.get("train", {}) | quick
        sections["model"] = sections.get("model", {}) | (QUICK if self.quick else {})
        machine = {"threads": 1} if self.quick else {}
        sections["machine"] = sections.get("machine", {}) | machine
        return settings_of(recipe, self.device, **sections)


def peer(asked: Asked, *words: str, data: Data | None = None) -> tuple[Any, str]:
    """Train nanoGPT, with random tokens as its large text; what is known of it, what it printed."""
    from benchmarks.sides import Theirs  # with packages that not every machine has

    assert asked.peer
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "input.txt"
        if asked.text:
            text = Path(asked.text)
        else:
            text.write_bytes(
                b"".join(file.read_bytes() for file in sorted(ROOT.glob("nanogpt/*.py")))
            )
        small = characters(text)
        for split, some in (("train", small.train), ("val", small.val)):
            some.ids.tofile(folder / f"{split}.bin")
        ours: Any = SimpleNamespace(text=text, tokens=folder)
        theirs = Theirs(folder / "peer", Path(asked.peer), ours)
        if data:
            its = folder / "peer/data/openwebtext"
            its.mkdir(parents=True, exist_ok=True)
            data.train.ids.tofile(its / "train.bin")
            data.val.ids.tofile(its / "val.bin")
        found = theirs.train([*words])
        return found, found.command.text
