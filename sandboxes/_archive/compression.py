"""The tar inside gzip, bzip2 or xz."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .manifest import ArchiveLimits, refuse

_CHUNK = 1 << 16
_MAX_STREAMS = 10_000
"""Compressed streams in a row: tools that compress in parallel write one for each 64 KiB, or more."""
_XZ_MEMORY = 256 << 20
"""What a stream may ask for; `xz -9` needs 65 MiB."""


class _Decompressor(Protocol):
    """What bz2 and lzma have. Output is made in pieces, so that a bomb is noticed while it is small."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """One gzip stream, in the shape of the others."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflater.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflater.decompress(self._inflater.unconsumed_tail or data, max_length)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Codec:
    name: str
    magic: bytes
    """What each stream begins with."""
    new: Callable[[], _Decompressor]
    error: type[Exception]
    """What it raises for bytes that it cannot read."""


def decompressed(data: bytes, limits: ArchiveLimits) -> bytearray:
    """All that was compressed. Refused as soon as it is over a limit, and when it is damaged or too long."""
    codec = _codec(data)
    out = bytearray()
    at, num_streams = 0, 0
    while data.startswith(codec.magic, at):
        if num_streams == _MAX_STREAMS:
            refuse(f"it has over {_MAX_STREAMS:,} {codec.name} streams in a row; compress it as one")
        try:
            at = _take_stream(data, at, codec, out, limits)
        except codec.error as error:
            refuse(f"its {codec.name} stream at byte {at:,} cannot be read ({error}): damaged")
        num_streams += 1
    if data.count(0, at) != len(data) - at:  # zeros are padding
        refuse(f"bytes follow the end of its {codec.name} stream at {at:,}; make the archive again")
    return out


def _codec(data: bytes) -> _Codec:
    try:
        if data.startswith(gzip := b"\x1f\x8b"):
            return _Codec(name="gzip", magic=gzip, new=_Gunzip, error=zlib.error)
        if data.startswith(bzip2 := b"BZh"):
            import bz2

            return _Codec(name="bzip2", magic=bzip2, new=bz2.BZ2Decompressor, error=OSError)
        if data.startswith(xz := b"\xfd7zXZ\0"):
            import lzma

            def new() -> _Decompressor:
                return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

            return _Codec(name="xz", magic=xz, new=new, error=lzma.LZMAError)
    except ImportError as error:
        refuse(f"this Python was built without its compression ({error}); compress it with gzip")
    refuse(f"it begins with {data[:8]!r}: neither a tar (plain, gzip, bzip2 or xz) nor a zip")


def _take_stream(data: bytes, at: int, codec: _Codec, out: bytearray, limits: ArchiveLimits) -> int:
    """Add the content of the stream at that place to `out`; where it ends."""
    decompressor = codec.new()
    while not decompressor.eof:
        piece = b""
        if decompressor.needs_input:
            piece = data[at : at + _CHUNK]
            if not piece:
                refuse(f"its {codec.name} stream has no end after {len(data):,} bytes: cut short?")
            at += len(piece)
        out += decompressor.decompress(piece, _CHUNK)
        limits.require_size(len(out))
        limits.require_ratio(len(out), len(data))
    return at - len(decompressor.unused_data)
