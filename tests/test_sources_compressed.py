"""gzip, bzip2, xz and zstd: the bytes of the original, in bounded memory, and all damage is noticed."""

import bz2
import gzip
import lzma
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_compat.errors import CheckpointError, InputError
from nanogpt_compat.input.compressed import MAX_WINDOW_BYTES, ByteStream
from nanogpt_compat.input.location import Compression, Format
from nanogpt_compat.input.open import LocalFile
from nanogpt_compat.input.reader import Reading
from nanogpt_compat.input.signatures import COMPRESSION_MAGIC
from nanogpt_compat.input.source import reader_of
from nanogpt_compat.memory.malloc import used_bytes
from nanogpt_compat.text.blocks import Position
from tests import texts
from tests.conftest import REPOSITORY

TEXT = "".join(f"{k} caf\xe9 {k * k}\n" for k in range(40)).encode()


def incompressible(n_bytes: int) -> bytes:
    return random.Random(1).randbytes(n_bytes)


PARAMETER = texts.zstd.CompressionParameter


def zstd(text: bytes, level: int = 3, *, sized: bool = True) -> bytes:
    options = {
        PARAMETER.compression_level: level,
        PARAMETER.checksum_flag: 1,
        PARAMETER.content_size_flag: sized,
    }
    return bytes(texts.zstd.compress(text, options=options))


def skippable(content: bytes, k: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + k, len(content)) + content


COMPRESSIONS: list[tuple[Compression, Callable[[bytes], bytes]]] = [
    ("none", bytes),
    ("gz", gzip.compress),
    ("bz2", bz2.compress),
    ("xz", lzma.compress),
    ("zst", zstd),
]
compressions = pytest.mark.parametrize(("compression", "compress"), COMPRESSIONS)
really_compressed = pytest.mark.parametrize(("compression", "compress"), COMPRESSIONS[1:])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


def read_all(path: Path, compression: Compression, block_bytes: int = 1 << 20) -> bytes:
    with LocalFile(path) as file:
        stream = ByteStream(file, compression)
        blocks = list(iter(lambda: stream.read(block_bytes), b""))
        assert all(len(block) == block_bytes for block in blocks[:-1])
        assert stream.offset == sum(map(len, blocks))
        assert stream.stored_bytes == file.size_bytes
        assert stream.read(1) == b""
    return b"".join(blocks)


def refusal(path: Path, compression: Compression, stored: bytes) -> str:
    path.write_bytes(stored)
    with pytest.raises(InputError) as error:
        read_all(path, compression)
    return str(error.value)


@compressions
def test_reads_of_every_size_give_the_same_bytes(
    compression: Compression, compress: Callable[[bytes], bytes], path: Path
) -> None:
    path.write_bytes(compress(TEXT[:300]) + (compress(TEXT[300:]) if compression != "none" else TEXT[300:]))
    for block_bytes in range(1, len(TEXT) + 2):
        assert read_all(path, compression, block_bytes) == TEXT


@compressions
@pytest.mark.parametrize("n_bytes", [0, 1, 65_535, 65_536, 65_537, 131_072, 131_073, 1_000_000])
@pytest.mark.parametrize("make", [incompressible, bytes])
def test_files_of_many_chunks_are_read_whole(
    make: Callable[[int], bytes],
    n_bytes: int,
    compression: Compression,
    compress: Callable[[bytes], bytes],
    path: Path,
) -> None:
    path.write_bytes(compress(make(n_bytes)))
    assert read_all(path, compression) == make(n_bytes)


@really_compressed
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 200_000), max_size=6), seed=st.integers(0, 9))
def test_members_and_frames_follow_one_another(
    compression: Compression, compress: Callable[[bytes], bytes], path: Path, sizes: list[int], seed: int
) -> None:
    parts = [random.Random(seed).randbytes(n // 2) + bytes(n - n // 2) for n in sizes] or [b""]
    path.write_bytes(b"".join(map(compress, parts)))
    assert read_all(path, compression, 50_000) == b"".join(parts)


def test_gzip_members_with_names_and_comments_are_read(path: Path) -> None:
    with path.open("wb") as file, gzip.GzipFile("a name.txt", "wb", fileobj=file) as member:
        member.write(TEXT)
    assert read_all(path, "gz") == TEXT


@pytest.mark.parametrize("n_zeros", [4, 512, 70_000])
@pytest.mark.parametrize(("compression", "compress"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_zeros_after_members_are_padding(
    compression: Compression, compress: Callable[[bytes], bytes], n_zeros: int, path: Path
) -> None:
    path.write_bytes((compress(TEXT) + bytes(n_zeros)) * 2)
    assert read_all(path, compression) == TEXT * 2


def test_skippable_zstd_frames_are_skipped(path: Path) -> None:
    skipped = skippable(b"12345678"), skippable(incompressible(200_000), 15), skippable(b"", 7)
    path.write_bytes(skipped[0] + zstd(TEXT) + skipped[1] + zstd(TEXT) + skipped[2])
    assert read_all(path, "zst") == TEXT * 2


@pytest.mark.parametrize("level", [-5, 1, 19])
@pytest.mark.parametrize("n_bytes", [0, 200, 300, 70_000, 500_000])
def test_zstd_frames_of_every_form_are_read(level: int, n_bytes: int, path: Path) -> None:
    text = (TEXT * 500)[:n_bytes]
    streamed = texts.zstd.ZstdCompressor(level)
    flush = streamed.FLUSH_BLOCK
    pieces = [streamed.compress(text[k : k + 5000], flush) for k in range(0, n_bytes, 5000)]
    path.write_bytes(zstd(text, level) + zstd(text, level, sized=False) + b"".join(pieces) + streamed.flush())
    assert read_all(path, "zst") == text * 3


@really_compressed
def test_a_file_that_ends_early_at_any_byte_is_refused(
    compression: Compression, compress: Callable[[bytes], bytes], path: Path
) -> None:
    first, second = compress(TEXT), compress(TEXT[::-1])
    for n_bytes in range(1, len(first + second)):
        if n_bytes != len(first):
            message = refusal(path, compression, (first + second)[:n_bytes])
            assert message.startswith(f"{path}, byte {n_bytes:,} of {n_bytes:,} (")
            assert message.endswith(
                "it ends in the middle of its compressed data; fetch or make the file again"
            )
            n_uncompressed = int(message.split(" (")[1].split(" ")[0].replace(",", ""))
            assert (n_uncompressed >= len(TEXT)) >= (n_bytes > len(first))


@really_compressed
def test_no_flipped_bit_gives_other_text(
    compression: Compression, compress: Callable[[bytes], bytes], path: Path
) -> None:
    stored = compress(TEXT)
    rng = random.Random(2)
    for k in range(len(stored)):
        damaged = bytearray(stored)
        damaged[k] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            text = read_all(path, compression)
        except InputError as error:
            assert str(error).startswith(f"{path}, byte ")
        else:  # in bytes without effect on the text, like the time in a gzip header
            assert text == TEXT


@really_compressed
def test_damage_is_reported_with_its_place_in_the_file_and_the_text(
    compression: Compression, compress: Callable[[bytes], bytes], path: Path
) -> None:
    stored = bytearray(compress(incompressible(1_000_000)) + compress(TEXT))
    stored[-5] ^= 1
    message = refusal(path, compression, bytes(stored))
    assert "bytes uncompressed): its " in message
    place, produced = (
        int(message.split(word)[1].split(" ")[0].replace(",", "")) for word in (", byte ", "(")
    )
    assert len(stored) - 70_000 < place < len(stored)
    assert 1_000_000 <= produced <= 1_000_000 + len(TEXT)


@really_compressed
@pytest.mark.parametrize("garbage", [b"hello", b"\x1f\x8c\x08", b"\n", b"PK\x03\x04"])
def test_bytes_after_the_compressed_data_are_refused(
    garbage: bytes, compression: Compression, compress: Callable[[bytes], bytes], path: Path
) -> None:
    stored = compress(TEXT)
    message = refusal(path, compression, stored + garbage)
    assert f"byte {len(stored):,} of {len(stored + garbage):,} ({len(TEXT):,} bytes uncompressed)" in message
    assert f"something else follows, found {garbage[:2].hex(' ')}" in message


def test_zeros_after_zstd_and_bzip2_are_refused(path: Path) -> None:
    assert "something else follows, found 00 00" in refusal(path, "zst", zstd(TEXT) + bytes(100))
    assert "something else follows, found 00 00" in refusal(path, "bz2", bz2.compress(TEXT) + bytes(100))


def test_a_second_part_whose_beginning_is_damaged_is_not_taken_for_the_end(path: Path) -> None:
    """Python's own BZ2File and LZMAFile take it for the end."""
    for compression, compress in COMPRESSIONS[1:]:
        stored = bytearray(compress(TEXT) + compress(TEXT))
        stored[len(stored) // 2 + len(COMPRESSION_MAGIC[compression])] ^= 0x40
        assert f"({len(TEXT):,} bytes uncompressed): its " in refusal(path, compression, bytes(stored))


@pytest.mark.parametrize("window_log", [27, 28, 31])
def test_a_zstd_frame_with_too_large_a_window_is_refused_with_its_size(window_log: int, path: Path) -> None:
    descriptor = struct.pack("<BB", 0, (window_log - 10) << 3)
    raw_block = struct.pack("<I", len(TEXT) << 3 | 1)[:3] + TEXT
    stored = zstd(b"before") + b"\x28\xb5\x2f\xfd" + descriptor + raw_block
    if 1 << window_log <= MAX_WINDOW_BYTES:
        path.write_bytes(stored)
        assert read_all(path, "zst") == b"before" + TEXT
    else:
        message = refusal(path, "zst", stored)
        found = {28: "268 MB", 31: "2.1 GB"}[window_log]
        assert f"byte {len(zstd(b'before'))} of" in message
        assert f"needs a window of {found} in memory; the limit is 134 MB; compress the text again" in message


def test_the_window_of_a_zstd_frame_is_known_to_be_in_use_while_it_is_read(path: Path) -> None:
    stored = b""
    for window_log in (20, 27):
        frame = texts.zstd.ZstdCompressor(options={PARAMETER.window_log: window_log})  # with unknown size
        stored += frame.compress(TEXT) + frame.flush()
    path.write_bytes(stored)
    # In a process of its own: the heap of this one may have room for a window, which is then not mapped.
    code = f"""
from nanogpt_compat.input.compressed import MAX_WINDOW_BYTES, ByteStream
from nanogpt_compat.input.open import LocalFile
from nanogpt_compat.memory.malloc import large_bytes, used_bytes
from pathlib import Path
with LocalFile(Path({str(path)!r})) as file:
    stream = ByteStream(file, "zst")
    before_bytes = large_bytes()
    stream.read(1)
    print(used_bytes())
    stream.read({len(TEXT)})
    print(used_bytes())
    others_bytes = large_bytes()
    stream.read({len(TEXT)})
    print(used_bytes(), abs(others_bytes - before_bytes) < MAX_WINDOW_BYTES // 2)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.split() == [str(1 << 20), str(MAX_WINDOW_BYTES), "0", "True"], done.stderr


@pytest.mark.costly
@really_compressed
def test_a_bomb_is_read_in_bounded_memory(
    compression: Compression, compress: Callable[[bytes], bytes], path: Path
) -> None:
    n_bytes = 64 << 20
    path.write_bytes(compress(bytes(n_bytes)))
    assert path.stat().st_size < 70_000
    tracemalloc.start()
    try:
        with LocalFile(path) as file:
            stream = ByteStream(file, compression)
            assert sum(len(block) for block in iter(lambda: stream.read(1 << 18), b"")) == n_bytes
        window_bytes = 8 << 20 if compression == "xz" else 0
        assert tracemalloc.get_traced_memory()[1] < window_bytes + (3 << 20)
    finally:
        tracemalloc.stop()


@compressions
def test_the_bytes_read_of_the_file_depend_only_on_the_place_in_the_text(
    compression: Compression, compress: Callable[[bytes], bytes], path: Path
) -> None:
    text = incompressible(300_000) + bytes(300_000) + TEXT * 20
    path.write_bytes(compress(text))
    rng = random.Random(3)
    for place in [0, 1, 65_536, 131_072, 300_000, 400_000, len(text) - 1, len(text)]:
        with LocalFile(path) as file:
            once, often = ByteStream(file, compression), ByteStream(file, compression)
            assert once.skip(place) == zlib.crc32(text[:place])
            while often.offset < place:
                often.read(min(rng.choice([7, 1000, 70_000]), place - often.offset))
            assert (once.offset, once.stored_bytes) == (place, often.stored_bytes)
            assert once.read(len(text)) == often.read(len(text)) == text[place:]


def test_a_file_that_has_become_shorter_cannot_be_skipped_through(path: Path) -> None:
    path.write_bytes(gzip.compress(TEXT))
    with LocalFile(path) as file:
        assert ByteStream(file, "gz").skip(9999) is None
    start = Position(0, 9999, crc=zlib.crc32(TEXT))
    with pytest.raises(CheckpointError, match="was changed within the 9,999 bytes"):
        next(reader_of(path, Format("text", "gz")).blocks(start, Reading(block_bytes=1000)))


def test_a_plain_file_can_be_read_from_any_byte(path: Path) -> None:
    path.write_bytes(TEXT)
    with LocalFile(path) as file:
        stream = ByteStream(file, start=100)
        assert (stream.read(10), stream.offset) == (TEXT[100:110], 110)
        with pytest.raises(ValueError, match="from its beginning"):
            ByteStream(file, "gz", start=100)


def test_without_its_package_zstd_is_refused_with_its_pip_command(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setattr(sys, "version_info", (3, 13))
    assert f"{path} is compressed with zstd" in (message := refusal(path, "zst", zstd(TEXT)))
    assert "-m pip install backports.zstd" in message


@pytest.mark.parametrize(("compression", "module"), [("bz2", "bz2"), ("xz", "lzma")])
def test_a_python_built_without_a_module_gets_a_command_to_unpack(
    compression: Compression, module: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = dict(COMPRESSIONS)[compression](TEXT)
    monkeypatch.setitem(sys.modules, module, None)
    message = refusal(path, compression, stored)
    assert f"this Python has no module {module}; unpack the file with " in message


@pytest.mark.parametrize(("preset", "window_bytes"), [(0, 1 << 18), (6, 8 << 20), (9, 64 << 20)])
def test_the_dictionary_of_xz_is_known_to_be_in_use_while_it_is_read(
    preset: int, window_bytes: int, path: Path
) -> None:
    path.write_bytes(lzma.compress(TEXT, preset=preset))
    asked = []
    with LocalFile(path) as file:
        stream = ByteStream(file, "xz", make_room=lambda n_bytes, _need: asked.append(n_bytes))
        assert stream.read(1) == TEXT[:1]
        assert used_bytes() == window_bytes
        assert asked == ([window_bytes + (8 << 20)] if window_bytes > 8 << 20 else [])
        assert stream.read(len(TEXT)) == TEXT[1:]
        assert used_bytes() == 0


@pytest.mark.parametrize("before", [lzma.FILTER_X86, lzma.FILTER_DELTA])
def test_xz_with_a_filter_before_its_last_is_read(before: int, path: Path) -> None:
    filters = [{"id": before}, {"id": lzma.FILTER_LZMA2, "dict_size": 12 << 20}]
    path.write_bytes(lzma.compress(b"", filters=filters) + lzma.compress(TEXT, filters=filters))
    assert read_all(path, "xz") == TEXT


def test_xz_with_too_large_a_dictionary_is_refused_with_its_size(path: Path) -> None:
    """The test writes filter properties with too large a dictionary into the header."""
    stored = bytearray(lzma.compress(TEXT))
    header = stored[12 : 12 + stored[12] * 4]
    header[header.rindex(b"\x21\x01") + 2] = 37
    stored[12 : 12 + len(header) + 4] = header + struct.pack("<I", zlib.crc32(header))
    message = refusal(path, "xz", bytes(stored))
    assert "byte 0 of" in message
    assert (
        "needs a window of 1.6 GB in memory; the limit is 134 MB; compress the text again with xz -6"
        in message
    )


def test_results_are_the_same_with_and_without_isal(path: Path) -> None:
    """A run may be resumed without the package."""
    path.write_bytes(gzip.compress(TEXT) + gzip.compress(incompressible(100_000)))
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[2:])); from pathlib import Path; "
        "from nanogpt_compat.input.compressed import ByteStream; "
        "from nanogpt_compat.input.open import LocalFile; "
        "from nanogpt_compat.system.checksum import crc32; "
        "stream = ByteStream(LocalFile(Path(sys.argv[1])), 'gz'); "
        "print(crc32(stream.read(1 << 20), 77), stream.stored_bytes, 'isal.isal_zlib' in sys.modules)"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code, path, *hidden], cwd=REPOSITORY, capture_output=True, check=True
        )
        for hidden in ([], ["isal"])
    ]
    crc = zlib.crc32(TEXT + incompressible(100_000), 77)
    lines = [f"{crc} {path.stat().st_size} {has_isal}\n".encode() for has_isal in (True, False)]
    assert [one.stdout for one in printed] == lines
