"""A model that was scored, as its decision needs it; and another version, scored on the same text.

Trial(scores, text, context, settings.eval, settings.machine).save(entry)
rescored(client, "nanogpt-plays", "3", trial).figures()
"""

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from nanogpt.common.errors import UserError
from nanogpt.formats.hub.config import read_config
from nanogpt.machine.distributed import World, prepare
from nanogpt.scoring.blocks import Scores, score
from nanogpt.scoring.reading import lacking
from nanogpt.settings import Eval, Machine
from nanogpt.text.tokens import HeldOut
from nanogpt.text.words import tokenizer
from nanogpt.text.words.tokenizer import Tokenizer
from nanogpt.tracking.client import patient
from nanogpt.tracking.versions.fetch import SIZE, model_in
from nanogpt.tracking.versions.names import Version, resolve
from nanogpt.training.publish import made

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONTEXT = "context"  # tag of a version: the window that it was trained with


@dataclass(frozen=True)
class Trial:
    """What a decision needs to know of a model that was scored, wherever and whenever it is made.

    Attributes:
        context: the window in tokens that it was scored in.
    """

    scores: Scores
    text: HeldOut
    context: int
    rule: Eval
    machine: Machine

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        about = {
            "name": self.text.name,
            "ends": self.text.ends,
            "context": self.context,
            "rule": self.rule.model_dump(),
            "machine": self.machine.model_dump(),
        }
        (folder / "trial.json").write_text(json.dumps(about), encoding="utf-8")
        text, talks = np.frombuffer(self.text.data, np.uint8), [*self.text.talks()]
        np.savez(folder / "text.npz", text=text, starts=self.text.starts, talks=talks)
        np.savez(folder / "scores.npz", **asdict(self.scores))

    @classmethod
    def load(cls, folder: Path) -> "Trial":
        """What `save` wrote.

        Raises:
            OSError, KeyError, ValueError: it is not there, or damaged.
        """
        about = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
        with np.load(folder / "text.npz") as kept:
            data, starts, talks = kept["text"].tobytes(), kept["starts"], kept["talks"]
        with np.load(folder / "scores.npz") as kept:
            scores = Scores(**{k: kept[k] if kept[k].ndim else kept[k].item() for k in kept})
        conversations = np.isin(np.arange(len(starts)), talks) if len(talks) else None
        text = HeldOut(about["name"], data, starts, about["ends"], conversations=conversations)
        rule, machine = Eval(**about["rule"]), Machine(**about["machine"])
        return cls(scores, text, about["context"], rule, machine)


def rescored(client: "MlflowClient", name: str, version: str, trial: Trial) -> Scores:
    """Score a version on the text of a trial, in windows as it was trained with.

    A vocabulary of characters may lack some of a corpus that grew since. The blocks that have such
    characters cost infinitely many nats.

    Raises:
        UserError: its files are gone, or are not those that were registered; or it cannot be read.
        Exception: MLflow does not answer.
    """
    found = resolve(client, f"models:/{name}/{version}")
    with _opened(client, found) as folder:
        card = made(folder)
        known = found.about.tags.get(CONTEXT) or (card.context if card else trial.context)
        context = min(int(known), read_config(folder).context)
        world, block = _alone(trial.machine), trial.rule.block
        text, blanks = _readable(tokenizer.load(folder), trial.text)
        scores = score(folder, text, context, world, block, apart=bool(card and card.apart))
        first = np.flatnonzero(np.diff(scores.document, prepend=-1))  # block of each document
        document = np.searchsorted(text.starts, blanks, side="right") - 1
        scores.nats[first[document] + (blanks - text.starts[document]) // block] = math.inf
        return scores


def _readable(encoder: Tokenizer, text: HeldOut) -> tuple[HeldOut, np.ndarray]:
    """A text of the same size with blanks for what a vocabulary lacks, and where: (bytes,).

    Conversations are left as they are: a model that lacks some of them cannot be scored.
    """
    if text.conversations is not None:
        return text, np.empty(0, int)
    characters = {*text.data.decode()}
    found = {*lacking(encoder, characters)}
    # a script without blanks has another character of one byte, such as that which ends a line
    short = (c for c in [" ", *sorted(characters - found)] if len(c.encode()) == 1)
    blank = next((c for c in short if not lacking(encoder, c)), None)
    if not found or blank is None:
        return text, np.empty(0, int)
    blanks = {ord(character): blank * len(character.encode()) for character in found}
    data = text.data.decode().translate(blanks).encode()
    changed = np.frombuffer(data, np.uint8) != np.frombuffer(text.data, np.uint8)
    return replace(text, data=data, tokens=None), np.flatnonzero(changed)


@contextmanager
def _opened(client: "MlflowClient", found: Version) -> Iterator[Path]:
    """The model directory of a version: where it lies if that is here, else fetched for a while."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    place = client.get_model_version_download_uri(found.name, found.number)
    local = place.startswith(("/", "file:"))
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with patient(SIZE):
                fetched = download_artifacts(
                    artifact_uri=place, dst_path=None if local else temporary
                )
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise UserError("its files are gone") from None
            raise
        yield model_in(Path(fetched), found)


def _alone(machine: Machine) -> World:
    """This process by itself, in float32: also at the end of a training of several."""
    device = prepare(machine)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    return World(
        rank=0,
        size=1,
        device=device,
        compute=torch.float32,
        compile=False,
        parallel="auto",
        parent=os.getppid(),
    )
