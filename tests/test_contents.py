"""What files hold, hashed whole; a second look costs nothing and is never wrong."""

from __future__ import annotations

import hashlib
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tvr_bench import contents as module
from tvr_bench.contents import MEMORY_FILE, Contents


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, in any order."""
    read, names = module._read, []
    monkeypatch.setattr(module, "_read", lambda path: names.append(path.name) or read(path))
    return names


def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file count as one that was written long ago."""
    now = time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: now() + 2 * module._SETTLED_NS)


@pytest.mark.parametrize(
    ("size", "pairs"), [(1, 500), (3_000, 6_500), (70_000, 1_500), (131_073, 1_000), (400_000, 500)]
)
def test_files_that_differ_in_one_byte_anywhere_never_share_a_hash(
    tmp_path: Path, size: int, pairs: int
) -> None:
    draw, known = random.Random(size), Contents(tmp_path / "cache")
    data = bytearray(draw.randbytes(size))
    before = known.sha256(_written(tmp_path / "a", data))
    with open(tmp_path / "a", "r+b", buffering=0) as file:
        for _ in range(pairs):
            place = draw.randrange(size)
            data[place] ^= draw.randrange(1, 256)
            os.pwrite(file.fileno(), data[place : place + 1], place)
            after = known.sha256(tmp_path / "a")
            assert after != before
            before = after
    assert before == hashlib.sha256(data).hexdigest()


def _written(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path


def test_a_second_look_reads_nothing_and_a_change_is_read(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _settled(monkeypatch)
    paths = [_written(tmp_path / f"v{i} \u00fc\udce4.mp4", b"x" * i) for i in range(5)]
    first = Contents(tmp_path / "cache").of(paths)
    assert len(hashed) == 5
    hashed.clear()
    known = Contents(tmp_path / "cache")
    assert known.of([*paths, *paths]) == first and hashed == []
    was = paths[3].stat()
    paths[3].write_bytes(b"xyx")
    os.utime(paths[3], ns=(was.st_atime_ns, was.st_mtime_ns))  # as `cp -p` and `rsync -a` do
    for fresh in known, Contents(tmp_path / "cache"):
        assert fresh.sha256(paths[3]) == hashlib.sha256(b"xyx").hexdigest()
    assert hashed == [paths[3].name]


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, hashed: list[str]) -> None:
    path, known = _written(tmp_path / "a", b"one"), Contents(tmp_path / "cache")
    for data in (b"one", b"two", b"six"):  # within a tick of the clock of files
        path.write_bytes(data)
        assert known.sha256(path) == hashlib.sha256(data).hexdigest()
    assert len(hashed) == 3 and not (tmp_path / "cache").exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _settled(monkeypatch)
    path, digest = _written(tmp_path / "a", b"one"), hashlib.file_digest

    def meanwhile(file: object, name: str) -> object:
        found = digest(file, name)
        path.write_bytes(b"another")
        return found

    monkeypatch.setattr(module.hashlib, "file_digest", meanwhile)
    known = Contents(tmp_path / "cache")
    known.sha256(path)
    monkeypatch.setattr(module.hashlib, "file_digest", digest)
    assert known.sha256(path) == hashlib.sha256(b"another").hexdigest()


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data.replace(b'["', b'["x'),
    "a wrong hash": lambda data: data.replace(hashlib.sha256(b"0").hexdigest().encode(), b"f" * 64),
    "zeros": lambda data: bytes(len(data)),
    "of something else": lambda data: b'{"a": 1}\n[]\n[1, 2]\nnull\n\xff\xfe[[[[',
    "deep": lambda data: b"[" * 200_000,
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_memory_is_passed_over_and_made_again(
    damage: str, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _settled(monkeypatch)
    paths = [_written(tmp_path / str(i), str(i).encode()) for i in range(4)]
    right = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    memory = tmp_path / "cache" / MEMORY_FILE
    Contents(memory.parent).of(paths)
    memory.write_bytes(DAMAGES[damage](memory.read_bytes()))
    hashed.clear()
    assert Contents(memory.parent).of(paths) == right and hashed
    hashed.clear()
    assert Contents(memory.parent).of(paths) == right and not hashed


def test_many_may_write_the_memory_at_once(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _settled(monkeypatch)
    paths = [_written(tmp_path / str(i), str(i).encode()) for i in range(100)]
    with ThreadPoolExecutor(8) as pool:  # each as a process of its own
        list(pool.map(lambda i: Contents(tmp_path / "cache").of(paths[i::8]), range(8)))
    hashed.clear()
    found = Contents(tmp_path / "cache").of(paths)
    assert not hashed and len(set(found.values())) == 100


def test_what_is_no_file_is_said_and_nothing_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    paths = [tmp_path / "fifo", tmp_path, tmp_path / "gone", tmp_path / ("x" * 300), Path("a\0b")]
    found = Contents(tmp_path / "cache").of(paths)
    assert all(isinstance(found[path], OSError) for path in paths)
    with pytest.raises(OSError, match="no regular file"):
        Contents(tmp_path / "cache").sha256(tmp_path / "fifo")


def test_a_memory_that_cannot_be_written_costs_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _settled(monkeypatch)
    path = _written(tmp_path / "a", b"one")
    known = Contents(_written(tmp_path / "file", b""))
    assert known.sha256(path) == hashlib.sha256(b"one").hexdigest()
    assert "cannot remember" in caplog.text


def test_what_takes_long_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [_written(tmp_path / name, b"12") for name in ("a", "b")]
    monkeypatch.setattr(module, "_LONG_BYTES", 4)
    Contents(tmp_path / "one").of(files[:1])
    assert capsys.readouterr().err == ""
    Contents(tmp_path / "two").of(files)
    assert "hash files: 2/2 files" in capsys.readouterr().err
