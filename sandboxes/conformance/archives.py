"""Archives that somebody made who wants out, or wants everything."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Literal

from ..archive import pack, unpack
from ..errors import ArchiveRefused
from .row import Broken, expect, printed, row
from .target import Target

SETUID = 0o4755


def _tar(*members: tuple[tarfile.TarInfo, bytes], mode: Literal["w", "w:gz", "w:xz"] = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _member(
    name: str, content: bytes = b"planted", *, kind: bytes = tarfile.REGTYPE, to: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, to, mode
    return member, content if kind == tarfile.REGTYPE else b""


def _zip(*entries: tuple[str, bytes], mode: int = 0o100644, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, compression
            archive.writestr(info, content)
    return buffer.getvalue()


def _overlapping_zip() -> bytes:
    """As a bomb without layers does: many entries of the directory name one body."""
    whole = _zip(("body", bytes(1 << 20)), compression=zipfile.ZIP_DEFLATED)
    end = whole.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<I", whole, end + 16)[0]
    entry = whole[start:end]
    num = 2000
    entries = b"".join(entry.replace(b"body", b"%04d" % n) for n in range(num))
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, num, num, len(entries), start, 0)
    return whole[:start] + entries + tail


def _hostile(num_entries: int, bomb_mb: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and maker of each: made one by one, the large ones do not lie in memory together."""
    link = _member("door", kind=tarfile.SYMTYPE, to="/tmp")
    yield "dot-dot in a tar", lambda: _tar(_member("good"), _member("../out"))
    yield "dot-dot in a zip", lambda: _zip(("good", b"x"), ("a/../../out", b"x"))
    yield "absolute in a tar", lambda: _tar(_member("/tmp/out"))
    yield "absolute in a zip", lambda: _zip(("/tmp/out", b"x"))
    yield "link, then through it", lambda: _tar(link, _member("door/out"))
    yield "link in a zip", lambda: _zip(("door", b"/tmp"), mode=0o120777)
    yield "hard link", lambda: _tar(_member("hard", kind=tarfile.LNKTYPE, to="/etc/passwd"))
    yield "device", lambda: _tar(_member("null", kind=tarfile.CHRTYPE))
    yield "pipe", lambda: _tar(_member("pipe", kind=tarfile.FIFOTYPE))
    yield "a name twice in a tar", lambda: _tar(_member("twice"), _member("twice"))
    yield "a name twice in a zip", lambda: _zip(("twice", b"x"), ("./twice", b"y"))
    yield "a file where a folder is", lambda: _tar(_member("a/b"), _member("a"))
    yield "setuid in a tar", lambda: _tar(_member("gain", mode=SETUID))
    yield "setuid in a zip", lambda: _zip(("gain", b"x"), mode=0o100000 | SETUID)
    yield "a bomb in a zip", lambda: _zip(("zero", bytes(bomb_mb << 20)), compression=zipfile.ZIP_DEFLATED)
    yield "a bomb in a tar.gz", lambda: _tar(_member("zero", bytes(bomb_mb << 20)), mode="w:gz")
    yield "a bomb in a tar.xz", lambda: _tar(_member("zero", bytes(bomb_mb << 20)), mode="w:xz")
    yield "overlapping entries", _overlapping_zip
    yield "entries without end, tar", lambda: _tar(*(_member(str(n), b"") for n in range(num_entries)))
    yield "entries without end, zip", lambda: _zip(*((str(n), b"") for n in range(num_entries)))
    yield "cut off", lambda: _tar(_member("half", bytes(5000)))[:2048]
    yield "noise", lambda: bytes(range(256)) * 40
    yield "nothing", lambda: b""


GOOD = {"a/b.txt": b"one", "-rf": b"two", "new\nline": b"three", "deep/er/still": bytes(1 << 16)}


@row(31, "a hostile archive is refused before a byte of it is written")
async def archives(target: Target) -> str:
    refused: list[str] = []
    async with target.box() as box:
        for name, make in _hostile(target.size(10_500, 1_000_000), target.size(20, 600)):
            try:
                written = await unpack(box, make())
            except ArchiveRefused:
                refused.append(name)
            else:
                raise Broken(f"{name}: {len(written)} files were written")
            expect(await box.list() == [], f"{name}: written before the refusal: {await box.list()}")
        await unpack(box, _tar(*(_member(name, content) for name, content in GOOD.items()), mode="w:gz"))
        printed(await box.run(["sh", "-c", "ln -s /etc/passwd link; mkfifo pipe; ln -s / root"]))
        packed = await pack(box)
        left_out = sorted(each.path for each in packed.left_out)
        expect(left_out == ["link", "pipe", "root"], f"left out of a packed workspace: {left_out}")
    async with target.box() as box:
        expect(set(await unpack(box, packed.data)) == set(GOOD), "a packed workspace has other files")
        for name, content in GOOD.items():
            expect(await box.read(name) == content, f"{name!r} came back changed")
    return f"{len(refused)} archives: {', '.join(refused)}; a good one made the round trip"
