"""Files at addresses, which go on where they broke off.

    Web((("https://example.org/a.txt", None),), keep=Path("partial")).fetch(Path("corpus"))

A `sources.fetch.Source`. A server that names the file it gives (by an ETag or a date) and gives
parts of files is asked for what is missing; else a file comes from its start.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nanogpt.common.progress import bar
from nanogpt.common.secrets import public
from nanogpt.sources.fetch import BLOCK, SourceError, check, fault


@dataclass(frozen=True)
class Web:
    """Files at addresses that fsspec opens: https, s3, gs, file. SHA-256 None: whatever comes."""

    files: tuple[tuple[str, str | None], ...]  # (address, SHA-256)
    keep: Path | None = None  # a folder for what came before a download broke off; None: not kept

    @property
    def name(self) -> str:
        return ", ".join(public(address) for address, _ in self.files)

    def fetch(self, folder: Path) -> str:
        for address, sha256 in self.files:
            path = folder / public(address).rsplit("/", 1)[-1]
            if self.keep and address.startswith("http"):
                Kept.of(self.keep, address).fetch(address, path)
            else:
                with path.open("wb") as file:
                    _read(address, file)
            with path.open("rb") as file:
                check(path.name, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
        return self.name


@dataclass(frozen=True)
class Kept:
    """What came of a file, and the server's word (ETag or date) for which file it was."""

    part: Path
    word: Path

    @classmethod
    def of(cls, folder: Path, address: str) -> "Kept":
        name = hashlib.sha256(address.encode()).hexdigest()[:16]
        return cls(folder / f"{name}.part", folder / f"{name}.word")

    def fetch(self, address: str, path: Path) -> None:
        """Fetch what is missing; the file then takes its name."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        known = self.word.read_text(encoding="utf-8") if self.word.exists() else ""
        if not known:
            self.part.unlink(missing_ok=True)
        with self.part.open("ab") as file:
            _read(address, file, known, self._note)
        os.replace(self.part, path)
        self.word.unlink(missing_ok=True)

    def _note(self, word: str) -> None:
        self.word.write_text(word, encoding="utf-8")


def _read(
    address: str, out: BinaryIO, known: str = "", note: Callable[[str], None] | None = None
) -> None:
    """Append a remote file to `out`, or go on with it where that ends; shows a progress bar.

    Args:
        known: the server's word for the file of which `out` is the beginning; none: from the start.
        note: hears that word, or nothing if the server has none.

    Raises:
        SourceError: what the network does.
    """
    import fsspec  # type: ignore[import-untyped]

    options: dict[str, Any] = {}
    have = out.tell() if known else 0
    if address.startswith("http"):
        import aiohttp

        # no limit on the whole: big files take hours; the user's proxy counts
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
        options = {"client_kwargs": {"trust_env": True, "timeout": timeout}}
        options["block_size"] = 0  # in one stream: many servers give no part of a file
        options["headers"] = {"Accept-Encoding": "identity"}  # else a part is one of what is packed
        if have:
            options["headers"] |= {"Range": f"bytes={have}-", "If-Range": known}
    try:
        system, path = fsspec.url_to_fs(address, **options)
        # asked for the size of a file, it would ask the server once more, for all of the file
        with system.open(path, "rb", **({"size": 1} if options else {})) as file:
            answer = getattr(file, "r", None)
            word = _word(answer)
            goes_on = have > 0 and getattr(answer, "status", 200) == 206 and word == known
            if have and not goes_on:
                print(f"{public(address)} is not what it was: from its start", file=sys.stderr)
                if getattr(answer, "status", 200) == 206:  # a part of another file
                    raise _Another
            if not goes_on:
                have = 0
                out.seek(0)
                out.truncate()
            if note:
                note(word)
            size = _size(file)
            with bar(size and size + have, "download", "B") as progress:
                progress.update(have)
                while block := file.read(BLOCK):
                    out.write(block)
                    progress.update(len(block))
    except _Another:
        _read(address, out, "", note)
    except Exception as error:  # each protocol has its own kinds
        if have and getattr(error, "status", 0) == 416:  # there is nothing after what came
            return _read(address, out, "", note)
        if options and isinstance(error, FileNotFoundError):
            raise SourceError("the server has no such file (404)") from error
        raise fault(error) from error


class _Another(Exception):
    """A server gave a part of another file than was asked for."""


def _word(answer: Any) -> str:
    """What says that a file is still the same: its strong ETag, or else when it was changed."""
    headers = getattr(answer, "headers", {})
    etag: str = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _size(file: Any) -> int | None:
    """How many bytes will come, as far as that is known."""
    headers = getattr(getattr(file, "r", None), "headers", {})
    if "Content-Length" in headers and "Content-Encoding" not in headers:
        return int(headers["Content-Length"])
    size: int | None = getattr(file, "size", None)
    return size
