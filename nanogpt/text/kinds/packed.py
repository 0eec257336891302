"""The bytes of a file, unpacked where it is a .gz or a .zst.

    with open_bytes(path) as file:      # io.BufferedReader or alike: read, readline
        ...

Both may hold several members or frames, one after another.
What is cut off or damaged is Unreadable.
"""

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from nanogpt.text.kinds.found import MEND, Unreadable
from nanogpt.text.raw import kind_of

BLOCK = 1 << 12  # packed bytes at a time: of a .zst they may become 130 MB, of a text about 20 kB
WINDOW = 1 << 31  # as far as a .zst may look back: `zstd --long=31` needs 2 GB to be unpacked


def open_bytes(path: Path) -> BinaryIO:
    """Open a file to read what is packed in it, or itself where it is not packed."""
    match kind_of(path.name):
        case (_, ""):
            return path.open("rb")
        case (_, packing):
            raw = _Gzip(path) if packing == ".gz" else _Zstd(path)
            return cast(BinaryIO, io.BufferedReader(raw, 1 << 20))


class _Gzip(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self.file = gzip.open(path)  # noqa: SIM115 (closed with what reads from it)
        self.unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: "memoryview") -> int:  # type: ignore[override]
        try:
            size = self.file.readinto(into)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise damage("gzip", self.unpacked, error) from None
        self.unpacked += size
        return size

    def close(self) -> None:
        self.file.close()
        super().close()


class _Zstd(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        import zstandard  # only who needs it waits for it

        self.file = path.open("rb")
        self.unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self.error = zstandard.ZstdError
        self.frame = self.unpacker.decompressobj()
        self.inside = False  # a frame has begun, and has not ended
        self.rest, self.ready, self.unpacked = b"", memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: "memoryview") -> int:  # type: ignore[override]
        while not self.ready:
            packed = self.rest or self.file.read(BLOCK)
            if not packed:
                if self.inside:
                    raise damage("zstd", self.unpacked, "it ends before its end")
                return 0
            if self.frame.eof:
                self.frame = self.unpacker.decompressobj()
            try:
                self.ready = memoryview(self.frame.decompress(packed))
            except self.error as error:
                raise damage("zstd", self.unpacked, error) from None
            self.inside = not self.frame.eof
            self.rest = self.frame.unused_data if self.frame.eof else b""
        size = min(len(into), len(self.ready))
        into[:size] = self.ready[:size]
        self.ready = self.ready[size:]
        self.unpacked += size
        return size

    def close(self) -> None:
        self.file.close()
        super().close()


def damage(packing: str, unpacked: int, error: object) -> Unreadable:
    said = f"cannot be unpacked ({packing}) after byte {unpacked} of its text: {error}{MEND}"
    return Unreadable("damaged", said)
