"""Videos by name in any layout, and nothing outside the folder, whatever a name says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tvr_bench.datamodules.folder import (
    Names,
    VideoFolder,
    checked_name,
    on_links,
    why_missing,
    without_suffix,
)
from tvr_bench.errors import UserError


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_video_is_found_by_name_in_any_layout(tmp_path: Path) -> None:
    _touch(tmp_path / "videos" / "all" / "video0.mp4", tmp_path / "b" / "-4wsuPCjDBc_5_15.avi")
    _touch(tmp_path / "m" / "3086_UGLY_TRUTH_00.23.23.000-00.23.28.886.avi", tmp_path / "x.txt")
    folder = VideoFolder(tmp_path)
    assert len(folder) == 3
    assert folder.find("video0") == folder.find("video0.mp4") == tmp_path / "videos/all/video0.mp4"
    assert folder.find("video0.webm") == tmp_path / "videos/all/video0.mp4", "another suffix"
    assert folder.find("-4wsuPCjDBc_5_15") == tmp_path / "b" / "-4wsuPCjDBc_5_15.avi"
    assert folder.find("3086_UGLY_TRUTH_00.23.23.000-00.23.28.886") is not None
    assert folder.find("3086_UGLY_TRUTH_00") is None
    assert folder.find("nothing", "video0") == tmp_path / "videos/all/video0.mp4"
    assert folder.find("x") is None and folder.find("x.txt") is None


def test_paths_of_the_annotations_may_start_in_a_folder(tmp_path: Path) -> None:
    _touch(tmp_path / "Video" / "Games" / "v_1.mp4", tmp_path / "Video" / "Sports" / "v_1.mp4")
    folder = VideoFolder(tmp_path)
    assert folder.find("Games/v_1.mp4", under=("Videos", "Video")) == (
        tmp_path / "Video/Games/v_1.mp4"
    )
    with pytest.raises(UserError, match="there twice"):
        folder.find("v_1")


def test_of_two_files_of_one_name_the_usual_container_is_chosen(tmp_path: Path) -> None:
    _touch(tmp_path / "a.webm", tmp_path / "a.mp4", tmp_path / "b.AVI")
    folder = VideoFolder(tmp_path)
    assert folder.find("a") == tmp_path / "a.mp4"
    assert folder.find("a.webm") == tmp_path / "a.webm"
    assert folder.find("b") == tmp_path / "b.AVI"


def test_a_key_inside_a_name_finds_its_file(tmp_path: Path) -> None:
    _touch(tmp_path / "12@N02_777_abc.mov")
    folder = VideoFolder(tmp_path, key=lambda stem: stem.split("_")[1])
    assert folder.find("12@N02_777_zzz.mp4", key="777") == tmp_path / "12@N02_777_abc.mov"
    assert folder.find("12@N02_778_zzz.mp4", key="778") is None


def test_links_to_videos_on_another_disk_are_followed_and_told_of(tmp_path: Path) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    _touch(disk / "b.mp4", disk / "more" / "c.webm", root / "real" / "a.mp4")
    (root / "again.mp4").symlink_to(root / "real" / "a.mp4")
    assert VideoFolder(root).outward == []
    (root / "b.mp4").symlink_to(disk / "b.mp4")
    (root / "more").symlink_to(disk / "more")
    folder = VideoFolder(root)
    assert folder.outward == [root / "b.mp4", root / "more" / "c.webm"]
    assert (folder.find("b"), folder.find("c")) == (root / "b.mp4", root / "more" / "c.webm")
    said = on_links(folder.outward, len(folder), root)
    assert said.startswith("2 of 4 videos lie outside of") and said.endswith(f"{disk}/b.mp4")


@pytest.mark.parametrize("target", ["/etc/passwd", "secret", "../secret.txt", "secret.mp4.gpg"])
def test_a_link_out_of_the_folder_to_what_is_no_video_is_refused(
    target: str, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    _touch(tmp_path / "secret", tmp_path / "secret.txt", tmp_path / "secret.mp4.gpg")
    (tmp_path / "root" / "a.mp4").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match=r"is a link that leads out of .*not named as a video"):
        VideoFolder(tmp_path / "root")


def test_the_hubs_cache_gives_its_videos(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "datasets--someone--clips"
    snapshot = repository / "snapshots" / ("0" * 40)
    _touch(repository / "blobs" / ("a" * 64), tmp_path / "hub" / "other")
    (snapshot / "videos").mkdir(parents=True)
    (snapshot / "videos" / "v1.mp4").symlink_to(f"../../../blobs/{'a' * 64}")
    for root in (snapshot, snapshot / "videos"):
        folder = VideoFolder(root)
        assert folder.find("v1") == snapshot / "videos" / "v1.mp4" and folder.outward == []
    (snapshot / "videos" / "v2.mp4").symlink_to("../../../../other")
    with pytest.raises(UserError, match="leads out of"):
        VideoFolder(snapshot)


def test_a_link_to_nothing_is_missing_and_says_where_it_led(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "v1.mp4").symlink_to("/mnt/not-mounted/v1.mp4")
    path = VideoFolder(tmp_path / "root").find("v1")
    assert path is not None and not path.is_file()
    assert why_missing(path) == "no such file: a link to /mnt/not-mounted/v1.mp4, where nothing is"


def test_what_may_be_wrong_with_a_name_is_said(tmp_path: Path) -> None:
    _touch(tmp_path / "A.MP4")
    assert why_missing(tmp_path / "a.mp4") == "no such file; there is 'A.MP4'"
    assert "its name has U+200B ZERO WIDTH SPACE" in why_missing(tmp_path / "b\u200b.mp4")
    assert why_missing(tmp_path / "c.mp4") == "no such file"
    assert why_missing(tmp_path / "no" / "c.mp4") == "no such file"


def test_a_name_is_found_in_other_spellings_where_only_that_is_there(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    _touch(
        tmp_path / apart / f"{composed}.mp4", tmp_path / "clips" / "a.mp4", tmp_path / "x\\y.mp4"
    )
    names = Names(tmp_path)
    assert names.find(f"{composed}/{apart}.mp4") == f"{apart}/{composed}.mp4"
    assert names.find("clips\\a.mp4") == names.find(".\\clips\\a.mp4") == "clips/a.mp4"
    assert names.find("x\\y.mp4") == "x\\y.mp4"
    for name in ("clips/b.mp4", "..\\a.mp4", "C:\\a.mp4", "a\0.mp4", "x" * 300, ".."):
        assert names.find(name) == name
    _touch(tmp_path / composed / f"{composed}.mp4")
    assert names.find(f"{composed}/{composed}.mp4") == f"{composed}/{composed}.mp4"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    _touch(tmp_path / "a.mp4")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert VideoFolder(tmp_path).find("a.mp4") == tmp_path / "a.mp4"


def test_no_folder_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder; set data\.videos"):
        VideoFolder(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.mp4", "a"), ("a.b.MP4", "a.b"), ("a.001", "a.001"), (".mp4", ".mp4"), ("a.", "a.")],
)
def test_only_the_suffix_of_a_video_is_cut(name: str, stem: str) -> None:
    assert without_suffix(name) == stem


HOSTILE = [
    *("", ".", "..", "...", "/", "//", "/etc/passwd", "../x", "a/../b", "a/./b", "a//b", "a/"),
    *("../../../../etc/passwd", "..\\..\\x", "a\\b", "C:\\x", "C:/x", "//host/share", "~/x"),
    *("a\0b", "\0", "a\nb", "a\rb", "a\tb", " a", "a ", "a b", "\u2028", "\u202e", "\ufeffa"),
    *("a\u2215b", "a\u2044b", "a\uff0fb", "a\u29f8b", "\u00e9", "a\u0301", "\U0001f600", "\u4e2d"),
    *("http://x/y.mp4", "file:///etc/passwd", "concat:a|b", "pipe:0", "data:,x", "a?b", "a#b"),
    *("a*b", "a%2fb", "%2e%2e", "$HOME", "`id`", "$(id)", "a;b", "a|b", "a&b", "<script>", "a'b"),
    *('a"b', "{a}", "[a]", "a=b", "a,b", "a:b", "x" * 129, "a/" + "x" * 129, "x" * 100_000),
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:24])
def test_a_hostile_name_is_refused_in_one_line(name: str) -> None:
    assert len(HOSTILE) >= 64
    with pytest.raises(UserError, match="no safe name") as error:
        checked_name(name, "list.txt")
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["-4wsuPCjDBc_5_15", "_x", "-rf", "12090392@N02_13482799053_87ef417396.mov", "CON", "a.b.c.",
     "Activity/v_1.mp4", "3086_UGLY_TRUTH_00.23.23.000-00.23.28.886", "x" * 128],
)  # fmt: skip
def test_the_names_of_real_data_sets_pass(name: str) -> None:
    assert checked_name(name, "list.txt") == name


_AUDIT = """
import sys
from pathlib import Path
root, names = Path(sys.argv[1]), open(sys.argv[2], encoding="utf-8").read().split("\\1")
from tvr_bench.datamodules.folder import VideoFolder
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event in
                 ("open", "os.scandir", "os.listdir") else None)
folder = VideoFolder(root)
found = [folder.find(name, key=name, under=(name, "a")) for name in names]
assert set(found) <= {None, root / "a.mp4"}, found
outside = [path for path in opened if not Path(path).resolve().is_relative_to(root.resolve())]
assert opened and not outside, outside
"""


def test_a_hostile_name_opens_nothing_outside_the_folder(tmp_path: Path) -> None:
    _touch(tmp_path / "root" / "a.mp4", tmp_path / "secret.mp4")
    (tmp_path / "names").write_text("\1".join(HOSTILE), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _AUDIT, str(tmp_path / "root"), str(tmp_path / "names")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
