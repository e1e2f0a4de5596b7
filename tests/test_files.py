"""Files that are whole or absent, names that follow content, and the ledger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvr_bench import files
from tvr_bench.files import (
    Ledger,
    atomic_path,
    atomic_write,
    file_fingerprint,
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
    for name in (".hidden", "x.tmp", ".abc.tmp.mp4", "clip.mp4"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1, 1))
    remove_stale(tmp_path)
    assert _names(tmp_path) == [".hidden", "clip.mp4", "x.tmp"]
    remove_stale(tmp_path / "nowhere")


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


def test_a_fingerprint_follows_the_content_and_not_the_name_or_time(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    content = os.urandom(files._PROBE) + b"-" * 100 + os.urandom(files._PROBE)
    one.write_bytes(content)
    other.write_bytes(content)
    os.utime(other, (1, 1))
    assert file_fingerprint(one) == file_fingerprint(other)
    for changed in (content + b"\0", content[:-1], b"?" + content[1:], content[:-1] + b"?"):
        other.write_bytes(changed)
        assert file_fingerprint(one) != file_fingerprint(other)


@pytest.mark.parametrize("content", [b"", b"x", b"x" * (files._PROBE + 1)])
def test_fingerprints_of_short_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    (tmp_path / "y").write_bytes(content + b"y")
    assert len(file_fingerprint(tmp_path / "x")) == 16
    assert file_fingerprint(tmp_path / "x") != file_fingerprint(tmp_path / "y")


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


def test_a_ledger_without_a_file_only_remembers() -> None:
    ledger = Ledger()
    ledger.add(id="a", path="a.mp4", stage="ocr", error="x")
    assert [entry.message for entry in ledger.entries] == ["x"]
