"""The real files of MSR-VTT: their official counts, in every layout, and the memory they take."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from real import DATA
from tvr_bench import config
from tvr_bench.datamodules.msrvtt import MsrvttDataModule, differences, read_annotations

REAL = DATA / "msrvtt"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not there")


def real(*settings: str, root: Path = REAL) -> MsrvttDataModule:
    return MsrvttDataModule(config.load(["data=msrvtt", f"data.root={root}", *settings]))


def _counts(data: MsrvttDataModule, *names: str) -> list[tuple[int, int]]:
    return [(len(data.split(n).clips), len(data.split(n).queries)) for n in names]


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def test_the_real_1k_a() -> None:
    data = real()
    assert _counts(data, "train", "val", "test") == [(8500, 170_000), (500, 10_000), (1000, 1000)]
    assert not {c.id for c in data.split("train").clips} & {c.id for c in data.split("test").clips}
    kinds = list(differences(data._sentences, data._captions).values())
    assert (kinds.count("white space"), kinds.count("punctuation"), len(kinds)) == (23, 12, 35)
    (line,) = [line for line in data.notes() if "word for word" in line]
    assert line.startswith("35 of 1,000") and line.count("video") == 35


@pytest.mark.slow
def test_the_real_splits() -> None:
    assert _counts(real("data.train=7k"), "train", "val") == [(6510, 130_200), (500, 10_000)]
    full = [(6513, 130_260), (497, 9_940), (2990, 59_800)]
    assert _counts(real("data.split=full"), "train", "val", "test") == full
    miech = real("data.split=1kb", "data.force_1kb=true", "data.holdout=0")
    assert _counts(miech, "train", "test") == [(6656, 133_120), (1000, 1000)]
    tested = {clip.id for clip in real().split("test").clips}
    overlap = [len(tested & {clip.id for clip in miech.split(n).clips}) for n in ("train", "test")]
    assert overlap == [453, 296]


@pytest.mark.slow
def test_the_real_files_in_the_layouts_of_others(tmp_path: Path) -> None:
    wanted = real()
    clip4clip = tmp_path / "clip4clip" / "msrvtt_data"
    clip4clip.mkdir(parents=True)
    (clip4clip / "MSRVTT_data.json").symlink_to(REAL / "derived" / "MSRVTT_data.json")
    for path in (REAL / "csv").iterdir():
        (clip4clip / path.name).symlink_to(path)
    frozen = tmp_path / "frozen"
    lists = frozen / "high-quality" / "structured-symlinks"
    for folder in (frozen / "annotation", lists):
        folder.mkdir(parents=True)
    rows, _ = read_annotations(REAL / "derived" / "MSRVTT_data.json")
    listed = [{"image_id": one, "caption": text} for one in rows for text in rows[one]]
    (frozen / "annotation" / "MSR_VTT.json").write_text(json.dumps({"annotations": listed}))
    for path in (REAL / "ce_lists").iterdir():
        (lists / path.name).symlink_to(path)
    letters = {one: [_letters(text) for text in texts] for one, texts in rows.items()}
    index = {one: letters[one].index(_letters(t)) for one, t in wanted._sentences.items()}
    (lists / "jsfusion_val_caption_idx.pkl").write_bytes(pickle.dumps(index))
    for root in (tmp_path / "clip4clip", frozen):
        data = real(root=root)
        assert data.split("train").queries == wanted.split("train").queries
        tested = [{q.clip_id: q.text for q in d.split("test").queries} for d in (data, wanted)]
        assert tested[0].keys() == tested[1].keys()
        assert all(_letters(tested[0][one]) == _letters(text) for one, text in tested[1].items())
    data = real(root=tmp_path / "clip4clip")
    assert data.split("test").queries == wanted.split("test").queries


MEMORY = """
import sys
from pathlib import Path
from tvr_bench.datamodules.msrvtt import read_annotations

def memory(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) / 1000

before = memory("VmRSS")
captions, _ = read_annotations(Path(sys.argv[1]))
print(sum(map(len, captions.values())), memory("VmHWM") - before)
"""


@pytest.mark.slow
def test_all_captions_take_less_than_500_mb() -> None:
    child = [sys.executable, "-c", MEMORY, str(REAL / "derived" / "MSRVTT_data.json")]
    count, megabytes = subprocess.run(child, check=True, capture_output=True).stdout.split()
    assert int(count) == 200_000
    assert float(megabytes) < 500
