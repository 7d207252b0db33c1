"""Compressed streams: their detection, reading them within limits, and the block compressors for writing layers.

Magic numbers: RFC 1952 (gzip), RFC 8878 (zstd), the xz file format 1.2 and bzip2's source. A written blob consists of
independent gzip members or zstd frames, one for each block of `BLOCK_BYTES` of the tar. So its bytes depend neither on
the number of workers nor on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Final, Protocol

from migrate.blobio import limits
from migrate.blobio.stopping import check_stop
from migrate.blobio.stream import ByteStream
from migrate.errors import DamagedError, LimitError, TruncatedError
from migrate.model.options import Compression

BLOCK_BYTES: Final = 1024 * 1024
"""Uncompressed bytes in one gzip member or zstd frame of a layer that this program compresses."""
HEAD_BYTES: Final = 16
"""The number of bytes that `detect_compression` needs."""

_READ_BYTES: Final = 256 * 1024
_SECTOR: Final = 512
_SAMPLED_BYTES: Final = 128 * 1024
_LEAST_GAIN: Final = 0.03
"""A block of at least `_SAMPLED_BYTES` is stored uncompressed (in a gzip member of level 0) if samples of it shrink by
less than this. Archives, pictures and packages shrink by 2 %, which takes a compressor a hundred times longer than
storing them. The places of the samples depend on the block's length only, so the bytes are the same everywhere."""
_XZ_MEMORY: Final = 256 * 1024 * 1024
_MAGIC: Final = {"gzip": b"\x1f\x8b\x08", "bzip2": b"BZh", "xz": b"\xfd7zXZ\x00", "zstd": b"\x28\xb5\x2f\xfd"}
_BZIP2_FIRST_BLOCK: Final = (b"1AY&SY", b"\x17rE8P\x90")
_DEFAULT_LEVEL: Final = {Compression.GZIP: 2, Compression.GZIP_FAST: 2, Compression.ZSTD: 3, Compression.NONE: 0}


def detect_compression(head: bytes) -> str:
    """`none`, `gzip`, `bzip2`, `xz` or `zstd` for a stream that begins with `head` (`HEAD_BYTES` of it are enough).

    A tar may begin with a file name `BZh…`, so bzip2 also needs the magic of its first block.
    """
    if head.startswith(_MAGIC["gzip"]):
        return "gzip"
    if head.startswith(b"BZh") and head[3:4].isdigit() and head[4:10] in _BZIP2_FIRST_BLOCK:
        return "bzip2"
    if head.startswith(_MAGIC["xz"]):
        return "xz"
    if head.startswith(_MAGIC["zstd"]) or _is_skippable_frame(head):
        return "zstd"
    return "none"


def _is_skippable_frame(head: bytes) -> bool:
    return len(head) >= 8 and head[0] & 0xF0 == 0x50 and head[1:4] == b"\x2a\x4d\x18"


class _Decompressor(Protocol):
    """The common interface of `bz2`, `lzma`, `compression.zstd` and `isal.igzip_lib`: one member, frame or stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def zstd_module() -> Any:
    """`compression.zstd`, or before Python 3.14 the package with the same interface."""
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return zstd


def _decompressor(kind: str) -> tuple[Callable[[], _Decompressor], tuple[type[Exception], ...]]:
    """(the class of decompressors of this kind, the errors that they raise for damaged bytes)."""
    match kind:
        case "gzip":
            from isal import igzip_lib, isal_zlib

            gzip_member = partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP)
            isal_error: Any = isal_zlib.IsalError
            return gzip_member, (isal_error, ValueError, OSError, EOFError)
        case "zstd":
            zstd = zstd_module()
            return zstd.ZstdDecompressor, (zstd.ZstdError, ValueError, EOFError)
        case "xz":
            import lzma

            xz_stream = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
            return xz_stream, (lzma.LZMAError, OSError, ValueError, EOFError)
        case _:
            import bz2

            return bz2.BZ2Decompressor, (OSError, ValueError, EOFError)


class DecompressedStream(ByteStream):
    """All members or frames of a compressed stream, one after the other.

    Reads raise TruncatedError if the stream ends inside a member, DamagedError for bytes that do not decompress or
    follow the last member, LimitError for a decompression bomb, and errors of the underlying stream. With `is_lenient`,
    bytes behind a gzip stream are ignored, as gzip does, and `trailing` describes them: tapes and `dd` fill the last
    block with zeros.
    """

    def __init__(
        self, stream: BinaryIO, kind: str, what: str, ratio: int | None = None, *, is_lenient: bool = False
    ) -> None:
        self.trailing: str | None = None
        self._is_lenient = is_lenient and kind == "gzip"
        self._stream = stream
        self._ratio = limits.DECOMPRESSION_RATIO if ratio is None else ratio
        self._kind = kind
        self._what = what
        self._open, self._errors = _decompressor(kind)
        self._member: _Decompressor | None = None
        self._input = b""
        self._bytes_in = 0
        self._bytes_out = 0

    def read_block(self, limit: int, /) -> bytes:
        while limit > 0:
            if self._member is None and not self._next_member():
                return b""
            block = self._decompress(limit)
            if block:
                return block
        return b""

    def _decompress(self, limit: int) -> bytes:
        member = self._member
        assert member is not None
        if not self._input and member.needs_input:
            self._input = self._read_input()
            if not self._input:
                raise TruncatedError(f"{self._what}: the {self._kind} stream ends before its end mark")
        given, self._input = self._input, b""
        try:
            block = member.decompress(given, limit)
        except self._errors as exc:
            if self._kind == "xz" and "memory usage limit" in str(exc).lower():
                raise LimitError(
                    f"{self._what}: xz needs more than the limit of {_XZ_MEMORY:,} bytes of memory"
                ) from exc
            raise DamagedError(f"{self._what}: damaged {self._kind} stream ({exc})") from exc
        # A gzip file may have several members (RFC 1952, 2.2), and zstd, xz and bzip2 allow several streams in a row,
        # too.
        if member.eof:
            self._input = member.unused_data
            self._member = None
        self._bytes_out += len(block)
        if self._bytes_out > max(limits.DECOMPRESSION_GRACE, self._bytes_in * self._ratio):
            more = "" if self._ratio == limits.STORED_RATIO else " (--max-ratio allows more)"
            raise LimitError(
                f"{self._what}: {self._bytes_in:,} compressed bytes gave more than {self._bytes_out:,},"
                f" over the limit of {self._ratio:,} to 1{more}"
            )
        return block

    def _next_member(self) -> bool:
        """Begins the next member; False at the end of the stream."""
        first = self._bytes_out == 0 and self._bytes_in == 0
        wanted = HEAD_BYTES
        while len(self._input) < wanted:
            more = self._read_input()
            if not more:
                break
            self._input += more
        # The xz format allows zeros between two streams (xz-file-format.txt, 2.2).
        if self._kind == "xz" and not first:
            self._skip_xz_padding()
        if not self._input:
            if first:
                raise TruncatedError(f"{self._what}: the {self._kind} stream is empty")
            return False
        if not self._begins_member():
            if self._is_lenient and not first:
                self._pass_trailing()
                return False
            raise DamagedError(f"{self._what}: bytes that are not {self._kind} follow the compressed stream")
        self._member = self._open()
        return True

    def _pass_trailing(self) -> None:
        size, is_zero = 0, True
        block = self._input
        while block:
            size += len(block)
            is_zero = is_zero and not block.strip(b"\0")
            block = self._read_input()
        self._input = b""
        kind = "zero bytes" if is_zero else "bytes that are not gzip"
        self.trailing = f"{size:,} {kind} follow the gzip stream and are ignored"

    def _begins_member(self) -> bool:
        if self._kind == "zstd" and _is_skippable_frame(self._input):
            return True
        magic = _MAGIC[self._kind]
        return self._input[: len(magic)] == magic[: len(self._input)]

    def _skip_xz_padding(self) -> None:
        """Zero bytes between or after xz streams, always a multiple of four (xz file format, "Stream Padding")."""
        padding = 0
        while True:
            rest = self._input.lstrip(b"\0")
            padding += len(self._input) - len(rest)
            self._input = rest
            if rest:
                break
            self._input = self._read_input()
            if not self._input:
                break
        if padding % 4:
            raise DamagedError(f"{self._what}: the padding of the xz stream is no multiple of four bytes")

    def _read_input(self) -> bytes:
        check_stop()  # an input may have any number of empty members, which give no block to a caller that checks
        block = self._stream.read(_READ_BYTES)
        self._bytes_in += len(block)
        return block


def open_decompressed(stream: BinaryIO, kind: str, what: str, ratio: int | None = None) -> BinaryIO:
    """The decompressed bytes of `stream`. `kind` as of `detect_compression`; for `none` this is `stream` itself.

    `what` is the beginning of every error's message. `ratio` replaces `limits.DECOMPRESSION_RATIO`. Errors: see
    `DecompressedStream`.
    """
    if kind == "none":
        return stream
    return DecompressedStream(stream, kind, what, ratio).as_binary()


BlockCompressor = Callable[[memoryview], bytes | bytearray | memoryview]
"""One block of a tar → one complete gzip member or zstd frame. May be called from any thread."""


def block_compressor(compression: Compression, level: int | None = None) -> BlockCompressor:
    """The compressor of one block. `level` is one of `migrate.model.options.LEVELS`.

    gzip is libdeflate (default level 2), zstd is zstd (3), gzip-fast is ISA-L (2; its bytes may differ from run to
    run), none copies.
    """
    chosen = _DEFAULT_LEVEL[compression] if level is None else level
    match compression:
        case Compression.NONE:
            return lambda block: block
        case Compression.GZIP:
            return _libdeflate(chosen)
        case Compression.GZIP_FAST:
            from isal import isal_zlib

            gzip_fast: Callable[[memoryview, int, int], bytes] = isal_zlib.compress
            # 31 is 16 for the gzip form and 15 for the largest window, as in zlib.
            return lambda block: gzip_fast(block, chosen, 31)
        case Compression.ZSTD:
            zstd: Callable[[memoryview, int], bytes] = zstd_module().compress
            return lambda block: zstd(block, chosen)


def _libdeflate(level: int) -> BlockCompressor:
    import deflate

    compress: Callable[[memoryview | bytes, int], bytearray] = deflate.gzip_compress

    def gain(block: memoryview, distance: int) -> float:
        sample = b"".join(block[start : start + _SECTOR] for start in range(0, len(block), distance * _SECTOR))
        return 1 - len(compress(sample, 1)) / len(sample)

    # Level 1 takes a fifth less time than the default level for blocks that shrink little, and 0.1 % more room.
    level_of_rest = 1 if level == _DEFAULT_LEVEL[Compression.GZIP] else level

    def compress_or_store(block: memoryview) -> bytearray:
        # Most blocks are text or programs, for which a few samples are enough. Other blocks need more samples. Odd
        # distances, because databases and file systems have pages of 2, 4, 8 or more sectors: each part of a page is
        # sampled.
        if len(block) < _SAMPLED_BYTES or gain(block, 127) > 0.1:
            return compress(block, level)
        return compress(block, level_of_rest if gain(block, 13) > _LEAST_GAIN else 0)

    return compress_or_store
