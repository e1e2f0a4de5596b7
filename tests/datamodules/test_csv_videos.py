"""The videos that a CSV names: by other spellings, over links, and what is said of missing ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tvr_bench.config import load
from tvr_bench.datamodules.csv import CsvDataModule
from tvr_bench.datamodules.refusals import check_missing
from tvr_bench.errors import UserError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a CSV file and return its path."""

    def make(content: str) -> Path:
        path = tmp_path / "my.csv"
        path.write_bytes(content.encode())
        return path

    return make


def test_one_file_by_two_spellings_is_one_video(write: Write) -> None:
    composed, apart = "caf\u00e9.mp4", "cafe\u0301.mp4"
    path = write(
        f"video,caption,split\n{composed},x,test\n{apart},y,test\nsub\\a.mp4,z,test\n"
        "sub/a.mp4,w,test\nsub/missing.mp4,v,test\n"
    )
    (path.parent / "sub").mkdir()
    (path.parent / apart).touch()
    (path.parent / "sub" / "a.mp4").touch()
    data = CsvDataModule(load(["data=csv", f"data.file={path}"]))
    split = data.split("test")
    root = path.parent
    assert [clip.path for clip in split.clips] == [
        *(root / apart, root / "sub/a.mp4", root / "sub/missing.mp4"),
    ]
    assert [split.clips[0].id, split.clips[0].id] == [q.clip_id for q in split.queries[:2]]
    assert data.text_names(split.clips[0])[0] == composed
    assert split.clips[1].id.startswith("sub_a.mp4-")
    (line,) = data.remarks
    assert line.startswith("2 videos are found under another spelling") and "\\xe9" in line


def test_two_files_of_one_look_stay_two_videos(write: Write) -> None:
    composed, apart = "caf\u00e9.mp4", "cafe\u0301.mp4"
    path = write(f"video,caption,split\n{composed},x,test\n{apart},y,test\n")
    for name in (composed, apart):
        (path.parent / name).touch()
    data = CsvDataModule(load(["data=csv", f"data.file={path}"]))
    assert [clip.path.name for clip in data.split("test").clips] == [composed, apart]
    assert data.remarks == []


def test_links_to_another_disk_are_followed_and_told_of(write: Write, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.mp4").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.mp4").symlink_to(tmp_path / "disk" / "a.mp4")
    path = write("video,caption,split\na.mp4,x,test\n")
    words = ["data=csv", f"data.file={path}", f"data.root={root}"]
    data = CsvDataModule(load(words))
    assert data.split("test").clips[0].path == root / "a.mp4" and not data.missing("test")
    (line,) = data.remarks
    assert line.startswith(f"test: 1 of 1 videos lie outside of {root}, where links lead")
    (root / "a.mp4").unlink()
    (root / "a.mp4").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"leads out of .* not named as a video"):
        CsvDataModule(load(words)).split("test")


def test_what_nobody_sees_in_a_name_is_named_where_the_video_is_missing(write: Write) -> None:
    lines = ["video,caption,split", *(f"{i}.mp4,x,test" for i in range(3)), "\ufeffb.mp4,y,test"]
    path = write("\n".join(lines))
    data = CsvDataModule(load(["data=csv", f"data.file={path}"]))
    with pytest.raises(UserError, match=r"4 of 4 .* has U\+FEFF ZERO WIDTH NO-BREAK SPACE, which"):
        check_missing(data, ["test"])
