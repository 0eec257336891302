"""The user's own texts: a file, a glob or a folder → the files that make a corpus.

    paths, note = own_files("poems", CORPORA)       # all texts and tables below poems/

What a glob matches has to be readable, all of it. Of a folder the readable files are taken, and the
note counts the others. Hidden files and folders are left out, as in a glob.
"""

import glob
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.recipe import did_you_mean
from nanogpt.sources.fetch import real_path
from nanogpt.text.raw import KINDS, READABLE, is_readable, kind_of

PACKED, TABLE, MARKUP = "unpack it", "write it as .csv or .parquet", "take the text out of it"
PLAIN = "give it the suffix .txt if it is plain text"
OTHERS = {  # what to do with files of other kinds
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"), PACKED),
    **dict.fromkeys((".tsv", ".xlsx", ".arrow", ".feather"), TABLE),
    **dict.fromkeys((".pdf", ".html", ".htm", ".xml", ".docx", ".odt", ".epub"), MARKUP),
}


def own_files(name: str, known: Collection[str]) -> tuple[tuple[str, ...], str]:
    """The files that a path, glob or folder names, and what a reader should know of the choice.

    Args:
        known: names of corpora that may have been meant.

    Raises:
        UserError: there is no such file, or none or not all of them can be read.
    """
    pattern = os.path.expanduser(name.removeprefix("file:").removeprefix("//"))
    if os.path.isdir(pattern):
        found, note = _below(name, pattern)
    else:
        matches = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        found = [path for path in matches if not os.path.isdir(path)]
        if not found:
            raise UserError(f"download.corpus: {_nothing(name, pattern, known)}")
        note = _folders(name, matches, found)
    # the same file by two ways is one
    paths = {real_path(path): path for path in sorted(found, reverse=True)}
    for path in sorted(paths.values()):
        _check_file(path)
    if not any(os.path.getsize(path) for path in paths.values()):
        raise UserError(f"download.corpus: {name} is empty")
    return tuple(sorted(paths.values())), note


def _below(name: str, folder: str) -> tuple[list[str], str]:
    """The files below a folder whose kind can be read, and a note that counts these and others."""
    files, hidden, seen = [], 0, set()
    for top, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        seen.add(os.path.realpath(top))
        hidden += sum(entry.startswith(".") for entry in (*folders, *names))
        files += [os.path.join(top, entry) for entry in names if not entry.startswith(".")]
        folders[:] = [
            entry
            for entry in folders
            if not entry.startswith(".")
            and os.path.realpath(os.path.join(top, entry)) not in seen  # a link back
        ]
    # a file that links name too is one, as in `own_files`
    files = [*{real_path(path): path for path in sorted(files, reverse=True)}.values()]
    kinds = Counter(kind_of(path) for path in files if is_readable(path))
    order = sorted(kinds, key=lambda kind: (KINDS.index(kind[0]), kind[1]))
    taken = [f"{kinds[kind]:,} {''.join(kind)}" for kind in order]
    unread = Counter(_suffix(path) for path in files if not is_readable(path))
    others = [
        f"{count:,} {suffix or 'without a suffix'} ({OTHERS.get(suffix, PLAIN)})"
        for suffix, count in sorted(unread.items())
    ]
    left = "; left out: " + ", ".join([*others, *([f"{hidden:,} hidden"] if hidden else [])])
    left = left if others or hidden else ""
    if not taken:
        raise UserError(
            f"download.corpus: the folder {name!r} has no file that can be read ({READABLE}){left}"
        )
    note = f"the folder {name}: {', '.join(taken)}{left}"
    return [path for path in files if is_readable(path)], note


def _folders(name: str, matches: list[str], files: list[str]) -> str:
    """A note of folders that a glob matches, and none of its files is in; "": there are none."""
    inside = {str(folder) for path in files for folder in Path(path).parents}
    left = sorted(m for m in matches if os.path.isdir(m) and str(Path(m)) not in inside)
    if not left:
        return ""
    return (
        f"the glob {name}: left out: {len(left):,} folder{'s' * (len(left) > 1)}, such as"
        f" {left[0]}; a folder's own name, or ** in a glob, takes what is below"
    )


def _unreadable(error: OSError) -> None:
    raise UserError(f"download.corpus: {error.filename}: {error.strerror}")


def _nothing(name: str, pattern: str, known: Collection[str]) -> str:
    if glob.has_magic(pattern):
        only = " but folders" if glob.glob(pattern, recursive=True) else ""
        return f"no file matches {name!r}{only}, seen from {Path.cwd()}"
    beside = glob.glob(os.path.join(glob.escape(os.path.dirname(pattern)), "*"))
    return (
        f"{name!r} is neither a known corpus nor a file or folder, seen from {Path.cwd()}"
        + did_you_mean(name, [*known, *beside])
        + f"\n  known: {', '.join(known)}, hf:<dataset id>@<revision>, an address,"
        + f" a folder, or files by path or glob ({READABLE})"
    )


def _check_file(path: str) -> None:
    """Refuse a file that could not be copied, recorded or read."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"download.corpus: the name {os.fsencode(path)!r} is not UTF-8; rename the file"
        ) from None
    check_suffix(path)
    if not os.path.isfile(path):
        raise UserError(f"download.corpus: {path} is a link to nothing, or no ordinary file")
    if not os.access(path, os.R_OK):
        raise UserError(f"download.corpus: {path}: you are not permitted to read it")


def check_suffix(path: str) -> None:
    """Refuse a file whose name says that it is of no kind that can be read."""
    if not is_readable(path):
        raise UserError(
            f"download.corpus: cannot read {path}: not one of {READABLE};"
            f" {OTHERS.get(_suffix(path), PLAIN)}"
        )


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
