"""The ancestors of a model as a tree, down to the wheels and addresses that its bytes came from."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.tree import Tree

from nanogpt.common.errors import UserError
from nanogpt.formats.base import Base
from nanogpt.tracking import lock
from nanogpt.tracking.versions import ancestors
from nanogpt.tracking.versions.ancestors import Known, NoRecord
from nanogpt.tracking.versions.record import LOCK, Code, Record, diff_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

SHORT = 12  # digits of a digest


class Ancestry:
    """Trees of models, for which records are fetched into `place`."""

    def __init__(self, client: "MlflowClient", place: Path) -> None:
        self.client, self.place = client, place
        self.seen: set[str] = set()

    def tree(self, known: Known) -> Tree:
        """The ancestors of a model, and of the versions that it was trained from."""
        tree = Tree(f"{known}{short(known.tags.get('weights_sha256'))}", highlight=False)
        self.seen.add(str(known))
        (folder := self.place / str(len(self.seen))).mkdir()
        try:
            found = ancestors.fetch(self.client, known, folder)
        except NoRecord as error:
            tree.add(f"{error}; what its tags say:")
            for key in ("mlflow.source.git.commit", "tokens_sha256", "base", "base_source"):
                if value := known.tags.get(key):
                    tree.add(f"{key.rpartition('.')[2]} {value}")
            return tree
        record = found.record
        if known.name:
            tree.add(f"run {known.run_id}, recipe {record.recipe}")
        for number, code in enumerate(record.code):
            tree.add(_code(code, number))
        tree.add(f"settings {record.params_path}")
        self._add_data(tree, record)
        if record.sources.base:
            self._add_base(tree, record.sources.base)
        _add_machine(tree, record)
        stages = lock.read(found.folder / LOCK)
        tree.add(f"dvc.lock of {', '.join(stages)}" if stages else "no dvc.lock is known")
        return tree

    def _add_data(self, tree: Tree, record: Record) -> None:
        digests, sources = record.digests, record.sources
        tokens = tree.add(f"tokens{short(digests.tokens)}, tokenizer{short(digests.tokenizer)}")
        corpus = sources.corpus
        text = tokens.add(f"corpus {corpus.name}{short(corpus.digest)}")
        if corpus.missing:
            text.add(f"its source is not known: {corpus.missing}")
        else:
            text.add(f"from {corpus.source}: {count(len(corpus.files))}")
            text.add(f"licence: {corpus.licence}")
        if vocabulary := sources.vocabulary:
            words = tokens.add(f"vocabulary {vocabulary.name}")
            words.add(f"from {vocabulary.source}: {count(len(vocabulary.files))}")

    def _add_base(self, tree: Tree, base: Base) -> None:
        node = tree.add(f"base {base.name}{short(base.digest)}")
        node.add(f"licence: {base.licence}")
        if not base.lineage:
            node.add(f"from {base.source}: {count(len(base.files))}")
            return
        uri = f"models:/{base.lineage['model']}/{base.lineage['version']}"
        if uri in self.seen:
            node.add(f"from {uri}, as above")
            return
        try:
            known = ancestors.find(self.client, uri)
        except UserError as error:
            node.add(f"from {uri}, which is not known here: {error}")
            return
        digests = {file.sha256 for file in base.files}
        if known.tags.get("weights_sha256") not in digests:
            node.add(f"from {uri}, which is another model here: its weights differ")
            return
        node.children.append(self.tree(known))


def _code(code: Code, number: int) -> str:
    first = "code" if not number else "and, after it went on, code"
    text = f"{first} of commit {code.commit[:SHORT]}" if code.commit else f"{first} of no commit"
    if code.diff_sha256:
        text += f", changed by {diff_name(number)}{short(code.diff_sha256)}"
    elif code.dirty:
        text += ", changed"
    return f"{text}; {code.missing}" if code.missing else text


def _add_machine(tree: Tree, record: Record) -> None:
    machine = record.machine
    name = machine.device_name or machine.processor
    node = tree.add(f"machine: {name}, {machine.instruction_set}, {machine.platform}")
    processes = f"{machine.processes} process{'es' * (machine.processes > 1)}"
    node.add(
        f"{machine.dtype} on {machine.device}, {processes} of {machine.threads}"
        f" thread{'s' * (machine.threads > 1)}{', compiled' * machine.compile}"
    )
    lock = short(record.digests.requirements)
    node.add(
        f"Python {record.python}, torch {machine.torch}, {len(record.packages)} packages,"
        + (f" requirements.lock{lock}" if lock else " no requirements.lock")
    )
    for other in record.resumed:
        tree.add(
            f"and, after it went on, machine: {other.machine.processor},"
            f" {other.machine.processes} x {other.machine.threads} threads,"
            f" torch {other.machine.torch}"
        )


def short(digest: str | None) -> str:
    """The beginning of a digest, to be put behind a name."""
    return f" {digest[:SHORT]}" if digest else ""


def count(files: int) -> str:
    return f"{files:,} file{'s' * (files != 1)}"
