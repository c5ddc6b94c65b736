"""Archives that want the machine: they are refused early, and never allocated as they claim."""

import bz2
import gzip
import lzma
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import Random

import pytest
from archives import Zipped, long_name, tar, tar_member, zipped

from palaestra.sandboxes import ArchiveLimits, ArchiveRefused
from palaestra.sandboxes.archive import check_archive

MiB = 1 << 20


@contextmanager
def at_most(megabytes: int, seconds: float) -> Generator[None, None, None]:
    """The block takes no more memory and processor time. Watching makes it several times slower."""
    tracemalloc.start()
    try:
        started = time.thread_time()
        yield
        taken = time.thread_time() - started
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MiB and taken < seconds, f"{peak / MiB:.1f} MiB, {taken:.1f} s"


def refused(data: bytes, reason: str, limits: ArchiveLimits | None = None) -> None:
    with pytest.raises(ArchiveRefused, match=reason):
        check_archive(data, limits)


@pytest.mark.parametrize("packer", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_that_grows_to_8_gigabytes_is_refused_early(packer: Callable[[bytes], bytes]) -> None:
    data = packer(tar_member(b"a", size=(1 << 33) - 1)) + packer(bytes(16 * MiB)) * 512
    with at_most(300, 5):
        refused(data, "over .*ArchiveLimits.(max_ratio=200; raise max_ratio|max_bytes=67,108,864)")


@pytest.mark.parametrize("packer", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_that_grows_too_slowly_for_that_is_refused_by_its_size(
    packer: Callable[[bytes], bytes],
) -> None:
    data = packer(tar_member(b"a", size=1 << 30)) + packer(Random(0).randbytes(1000) + bytes(99_000)) * 1000
    with at_most(32, 5):
        refused(data, "max_bytes=4,194,304", ArchiveLimits(max_bytes=4 * MiB, max_entries=100))


def test_a_zip_that_says_1_byte_and_inflates_to_a_gigabyte_makes_2_bytes() -> None:
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(MiB)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = zipped(Zipped(name=b"a", packed=block * 1024 + packer.flush(), size=1))
    with at_most(4, 1):
        refused(data, "not the 1 bytes that it claims")


def test_a_zip_that_says_4_gigabytes_and_holds_2_bytes_allocates_none() -> None:
    limits = ArchiveLimits(max_bytes=1 << 40, max_ratio=1e12)
    with at_most(4, 1):
        refused(zipped(Zipped(name=b"a", content=b"hi", size=(1 << 32) - 1)), "4,294,967,295 bytes", limits)


def test_a_zip_of_a_bomb_in_many_entries_is_refused_by_its_ratio_before_one_is_inflated() -> None:
    bomb = zipped(*(Zipped(name=b"%d" % n, content=bytes(MiB)) for n in range(32)))
    with at_most(2, 1):
        refused(bomb, "become 33,554,432 or more, over ArchiveLimits.max_ratio=200")


def test_a_nested_bomb_is_a_file_like_any_other() -> None:
    inner = zipped(Zipped(name=b"b", content=bytes(32 * MiB)))
    (entry,) = check_archive(zipped(Zipped(name=b"a.zip", content=inner)))
    assert bytes(entry.content) == inner
    refused(inner, "max_ratio")


def test_a_zip_of_entries_that_all_share_one_kernel_is_refused_before_one_is_inflated() -> None:
    """As Fifield's bombs do: each entry's bytes are the headers of all that follow, and the kernel."""
    names = [b"%04d" % n for n in range(1000)]
    kernel = Random(0).randbytes(1000)
    entries = [Zipped(name=names[0], content=kernel, method=0)]
    entries += [Zipped(name=name, content=kernel, method=0, local_at=0) for name in names[1:]]
    with at_most(4, 1):
        refused(zipped(*entries), "tells another method or name")
    twins = [Zipped(name=b"a", content=kernel, method=0), Zipped(name=b"./a", content=kernel, local_at=0)]
    refused(zipped(*twins), "already made a file")


def test_a_million_entries_of_a_zip_are_refused_at_the_first_too_many() -> None:
    one = struct.pack("<4s6H3L5H2L", b"PK\1\2", 0x314, 20, 0, 0, 0, 0, 0, 0, 0, 7, *[0] * 6)
    directory = b"".join(one + b"%07d" % n for n in range(1_000_000))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1000, 1000, len(directory), 4, 0)
    data = b"PK\3\4" + directory + end
    with at_most(16, 3):
        refused(data, "entry '0010000': it is one more than .*max_entries=10,000")


@pytest.mark.parametrize("ending", [b"", b"/a", b"/"])
def test_a_million_entries_of_a_tar_are_refused_at_the_first_too_many(ending: bytes) -> None:
    headers = b"".join(tar_member(b"%07d%s" % (n, ending)) for n in range(10_001)) * 100
    limits = ArchiveLimits(max_bytes=1 << 30)
    with at_most(32, 5):
        refused(headers, "it is one more than ArchiveLimits.max_entries=10,000", limits)


def test_a_million_entries_of_a_compressed_tar_are_refused() -> None:
    headers = gzip.compress(b"".join(tar_member(b"%07d" % n) for n in range(10_001))) * 100
    with at_most(350, 5):
        refused(headers, "max_bytes|max_ratio|max_entries")


def test_directories_that_only_occur_in_paths_count() -> None:
    deep = long_name(b"a/" * 2000 + b"b") + tar_member(b"x")
    assert len(check_archive(tar(deep))) == 1
    refused(tar(deep), "max_entries=2,000", ArchiveLimits(max_entries=2000))


def test_the_limits_are_reached_and_not_passed() -> None:
    limits = ArchiveLimits(max_entries=3, max_bytes=5)
    good = tar(tar_member(b"a", b"123"), tar_member(b"d/b", b"45"))
    assert len(check_archive(good, limits)) == 2
    refused(tar(tar_member(b"e"), good[:-1024]), "entry 'd/b'.*max_entries=3", limits)
    refused(
        tar(tar_member(b"a", b"123"), tar_member(b"b", b"456")), "files have 6, over .*max_bytes=5", limits
    )
    refused(zipped(Zipped(name=b"a", content=b"123456")), "files have 6, over .*max_bytes=5", limits)


@pytest.mark.timeout(30)
def test_headers_without_members_are_read_in_linear_time() -> None:
    refused(tar_member(b"g", kind=b"g") * 50_000, "cut short")
    refused(gzip.compress(b"") * 200_000, "over 10,000 gzip streams")


@pytest.mark.parametrize("field", ["max_entries", "max_bytes", "max_ratio"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_must_be_over_0(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"ArchiveLimits.{field} must be over 0"):
        ArchiveLimits(**{field: value})  # type: ignore[arg-type]


def test_an_xz_stream_that_asks_for_4_gigabytes_of_memory_gets_none() -> None:
    data = lzma.compress(tar(tar_member(b"a")), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": MiB}])
    head = data[12:16] + bytes([40]) + data[17:20]  # the dictionary's size, as a power of two
    refused(data[:12] + head + struct.pack("<L", zlib.crc32(head)) + data[24:], "[Mm]emory usage limit")
    assert len(check_archive(data)) == 1
