"""Files that are whole or absent, names that follow content, and the ledger."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvr_bench.errors import UserError
from tvr_bench.files import (
    Ledger,
    atomic_path,
    atomic_write,
    check_utf8,
    remove_stale,
    settings_hash,
)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    atomic_write(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    atomic_write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert _names(path.parent) == ["x.txt"]


def test_atomic_path_keeps_the_suffix_and_is_no_file_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".mp4" and temporary.parent == path.parent
        temporary.write_bytes(b"1")
        assert not path.exists()
    assert _names(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_temporary_one(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "x"
    atomic_write(path, "old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["x"]


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        pass
    assert _names(tmp_path) == []


def test_a_killed_writer_leaves_the_old_file_and_its_rest_is_removed_when_old(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x"
    atomic_write(path, "old")
    code = (
        "import sys, pathlib\n"
        "from tvr_bench.files import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"
    (rest,) = tmp_path.glob(".*.tmp*")
    remove_stale(tmp_path)
    assert rest.exists(), "a young one may be in use"
    os.utime(rest, (1, 1))
    remove_stale(tmp_path)
    assert _names(tmp_path) == ["x"]


def test_remove_stale_takes_nothing_but_temporary_files(tmp_path: Path) -> None:
    others = [".abc.tmp.mp4", ".hidden", ".notes.tmpl", "clip.mp4", "x.tmp"]
    for name in (*others, ".0123456789ab.tmp", ".0123456789ab.tmp.mp4"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1, 1))
    remove_stale(tmp_path)
    assert _names(tmp_path) == others
    remove_stale(tmp_path / "nowhere")


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def note_replace(source: Path, target: Path) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    atomic_write(tmp_path / "x", "content")
    assert steps == ["file", "rename", "folder"]


@pytest.mark.parametrize(("reason", "fatal"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_syncs_no_folder_is_fine_and_a_broken_one_is_not(
    reason: int, fatal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(OSError, match="Input/output") if fatal else nullcontext():
        atomic_write(tmp_path / "x", "content")
    assert _names(tmp_path) == ["x"]


@contextmanager
def _room_of(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1, 511, 4096, 9_999])
def test_a_file_without_room_leaves_the_old_one_and_says_what_to_do(
    room: int, tmp_path: Path
) -> None:
    path = tmp_path / "record.json"
    atomic_write(path, "old")
    message = r"cannot write .*record\.json: .*free some space"
    with pytest.raises(UserError, match=message), _room_of(room):
        atomic_write(path, "n" * 10_000)
    assert path.read_text() == "old" and _names(tmp_path) == ["record.json"]
    with _room_of(10_000):
        atomic_write(path, "n" * 10_000)
    assert path.stat().st_size == 10_000


@pytest.mark.parametrize("place", ["write", "sync", "rename"])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_at_any_step_leaves_the_old_file(
    place: str, reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    atomic_write(path, "old")

    def full(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    name = {"write": "write", "sync": "fsync", "rename": "replace"}[place]
    monkeypatch.setattr(os, name, full)
    with pytest.raises(UserError, match=os.strerror(reason)), atomic_path(path) as temporary:
        handle = os.open(temporary, os.O_CREAT | os.O_WRONLY)
        try:
            os.write(handle, b"half")
        finally:
            os.close(handle)
    assert path.read_text() == "old" and _names(tmp_path) == ["x"]


def test_other_errors_of_a_disk_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), atomic_path(tmp_path / "x"):
        raise FileExistsError


def test_a_ledger_on_a_full_disk_says_so() -> None:
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        Ledger(Path("/dev/full")).add(id="a", path="a.mp4", stage="ocr", error="x")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(settings=st.dictionaries(st.text(), _JSON, max_size=4))
def test_settings_hash_depends_on_the_value_alone(settings: dict[str, object]) -> None:
    turned = dict(reversed(settings.items()))
    assert settings_hash(settings) == settings_hash(turned)
    assert len(settings_hash(settings)) == 16
    assert settings_hash(settings, 64).startswith(settings_hash(settings))
    assert settings_hash({**settings, "\0 new": 1}) != settings_hash(settings)


def test_the_ledger_holds_one_line_per_id_and_stage(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run" / "failures.jsonl")
    ledger.add(id="ü", path="ü.mp4", stage="frames", error=ValueError("two\nlines   of\ttext"))
    ledger.add(id="ü", path="ü.mp4", stage="frames", error="again")
    ledger.add(id="ü", path="ü.mp4", stage="ocr", error="unreadable")
    ledger.add(id="b", path="b.mp4", stage="ocr", error=OSError())
    lines = (tmp_path / "run" / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "id": "ü",
            "path": "ü.mp4",
            "stage": "frames",
            "exception": "ValueError",
            "message": "two lines of text",
        },
        {
            "id": "ü",
            "path": "ü.mp4",
            "stage": "ocr",
            "exception": "Error",
            "message": "unreadable",
        },
        {"id": "b", "path": "b.mp4", "stage": "ocr", "exception": "OSError", "message": ""},
    ]
    assert ledger.ids() == {"ü", "b"}
    assert ledger.ids("frames") == {"ü"}
    assert ledger.ids("render") == set()


def test_a_name_with_any_byte_is_written_and_read_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9/\xc3\xa9.mp4")
    ledger = Ledger(tmp_path / "failures.jsonl")
    ledger.add(id="a", path=name, stage="x", error=f"{name}: broken")
    ledger.add(id="b", path="é.mp4", stage="x", error="y")
    first, second = (tmp_path / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(first)["path"] == name and '"é.mp4"' in second
    check_utf8("data.file=", "é.mp4")
    with pytest.raises(UserError, match=r"data\.file='caf\\udce9.* has the byte 0xE9, .*a link"):
        check_utf8("data.file=", name)


def test_a_ledger_without_a_file_only_remembers() -> None:
    ledger = Ledger()
    ledger.add(id="a", path="a.mp4", stage="ocr", error="x")
    assert [entry.message for entry in ledger.entries] == ["x"]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077], ids=oct)
def test_a_new_file_is_as_private_as_the_umask_and_an_old_one_as_it_was(
    umask: int, tmp_path: Path
) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_bytes(b"")
    old.chmod(0o640)
    before = os.umask(umask)
    try:
        for path in (new, old):
            with atomic_path(path) as temporary:
                temporary.unlink(missing_ok=True)
                os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
