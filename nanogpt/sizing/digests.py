"""Digests of files of one's own, which nobody but their owner knows to be edited.

    found = of_texts(settings, corpora)     # seen from the root

A file is read again only where its size, time or number changed.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from nanogpt.common.files import describe, write_text
from nanogpt.common.progress import bar
from nanogpt.settings import Settings
from nanogpt.sources.corpora import Corpus
from nanogpt.sources.fetch import Files, real_path

Digests = dict[str, str]  # SHA-256 by name
KNOWN = "digests.json"  # by whole path: size, time and number of a file as it was read
FRESH = 2_000_000_000  # nanoseconds


def of_texts(settings: Settings, found: Sequence[Corpus]) -> Digests:
    """One's own texts, by their names in raw/corpus: below their nearest common folder.

    Args:
        found: the corpora that the settings name, in their order.
    """
    own: Digests = {}
    for number, corpus in enumerate(found):
        paths = [Path(p) for s in corpus.sources if isinstance(s, Files) for p in s.paths]
        below = f"{number}/" if len(found) > 1 else ""
        digests = of_files(paths, settings.path(KNOWN))
        own |= {f"{below}{name}": digest for name, digest in digests.items()}
    return own


def of_files(paths: Iterable[Path], known: Path) -> Digests:
    """Digests of files, named as `download` does; only what changed since `known` is read."""
    whole = [real_path(str(path)) for path in paths]
    top = Path(os.path.commonpath([path.parent for path in whole]) if whole else "")
    seen = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    found = {}
    with bar(sum(path.stat().st_size for path in whole), "digests", "B") as progress:
        for path in whole:
            about, name = path.stat(), path.relative_to(top).as_posix()
            stamp = [about.st_size, about.st_mtime_ns, about.st_ino]
            *older, digest = seen.get(str(path), [None])
            if older == stamp:
                progress.update(about.st_size)
            else:
                digest = describe(top, name, progress.update).sha256
            if time.time_ns() - about.st_mtime_ns > FRESH:  # else it may change in the same tick
                seen[str(path)] = [*stamp, digest]
            found[name] = digest
    if seen:
        known.parent.mkdir(parents=True, exist_ok=True)
        write_text(known, json.dumps(seen))
    return found
