"""A corpus that was read once: where each of its documents goes, chunk by chunk."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from nanogpt.common.errors import UserError
from nanogpt.settings import Tokenize
from nanogpt.text.checks.profile import histogram
from nanogpt.text.talks.chat import Conversation, columns
from nanogpt.text.talks.template import plain_text
from nanogpt.text.tokens import SPLITS
from nanogpt.text.words.cuts import cut
from nanogpt.text.writing import first, splits
from nanogpt.text.writing.chunks import Chunk
from nanogpt.text.writing.first import Facts
from nanogpt.text.writing.splits import CUT, LEFT_OUT
from nanogpt.text.writing.stretches import Place, stretches


class Corpus:
    """What was decided about the chunks of a corpus.

    Args:
        texts: of each chunk.
        names: of the corpora that it is made of.

    Raises:
        UserError: there is too little text to divide, or none in one of several corpora.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        texts: Sequence[Facts],
        names: Sequence[str],
        settings: Tokenize,
    ) -> None:
        self.chunks = chunks
        parts = range(len(names))
        mine = [[i for i, chunk in enumerate(chunks) if chunk.part == part] for part in parts]
        found = [first.documents([texts[i] for i in some]) for some in mine if some]
        cuttable = [not columns(chunks[some[0]].reading.text_field) for some in mine if some]
        self.where = splits.decide([documents for documents, _ in found], settings, cuttable)
        self.places: list[Place] = []
        digest, before = hashlib.sha256(), 0  # documents of the parts before
        sizes, empty = [], dict(enumerate(names))
        for some, (documents, bounds) in zip(filter(None, mine), found, strict=True):
            labels = self.where.labels[before : before + len(documents.bytes)]
            self._place([texts[i] for i in some], bounds, before)
            digests = np.concatenate([texts[i].digests for i in some])
            trained = (labels == SPLITS.index("train")) | (labels == CUT)
            digest.update(digests[np.repeat(trained, np.diff(bounds))].data)
            sizes.append(documents.bytes[labels != LEFT_OUT])
            if len(sizes[-1]):
                del empty[chunks[some[0]].part]
            before += len(labels)
        if empty:
            raise UserError(
                f"download.corpus: {', '.join(empty.values())}: no text is there, or none that the"
                " corpora before it do not have; leave it out"
            )
        digest.update(repr(self.where.cuts).encode())
        self.train_sha256 = digest.hexdigest()  # of the digests of what there is to train on
        self.sizes = histogram(np.concatenate(sizes))
        self.bytes = sum(int(some.sum()) for some in sizes)

    def trained(self) -> Iterator[str]:
        """What there is to train on: texts, a long one in several."""
        for chunk, place in zip(self.chunks, self.places, strict=True):
            for stretch in stretches(chunk, place, cut):
                if stretch.label == SPLITS.index("train"):
                    text = stretch.text
                    yield plain_text(text) if isinstance(text, Conversation) else text

    def _place(self, texts: list[Facts], bounds: np.ndarray, before: int) -> None:
        """Add the places of the chunks of one part, whose documents' texts have these bounds."""
        at, labels, cuts = 0, self.where.labels, self.where.cuts
        characters = np.concatenate([facts.characters for facts in texts])
        for facts in texts:
            stop = at + len(facts.bytes)
            one, last = np.searchsorted(bounds, (at, stop - 1), side="right") - 1
            if not len(facts.bytes):
                one, last = 0, -1
            here = range(before + int(one), before + int(last) + 1)
            ours = {
                document - here.start: cut for document, cut in cuts.items() if document in here
            }
            done = int(characters[bounds[one] : at].sum())
            self.places.append(Place(labels[here.start : here.stop], ours, done))
            at = stop
