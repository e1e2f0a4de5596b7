"""A data module whose scene text others read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from given_case import street

from tiny import TINY_MODEL, TINY_RUN
from tvr_bench import config, report
from tvr_bench.datamodules.csv import CsvDataModule
from tvr_bench.datamodules.tokens import build_tokenizer
from tvr_bench.errors import UserError

Make = Callable[..., CsvDataModule]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip with the signs."""
    return street(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def module(tmp_path: Path, video: Path) -> Make:
    """A function that makes a data module of two clips whose text is given as tracks."""
    (tmp_path / "sub").mkdir()
    for name in ("a", "b"):
        (tmp_path / "sub" / f"{name}.mp4").write_bytes(video.read_bytes())
    rows = ["video,caption,split,start,end", "sub/a.mp4,x,test,,", "sub/a.mp4,y,test,2,4"]
    (tmp_path / "my.csv").write_text("\n".join([*rows, "sub/b.mp4,z,test,,"]))

    def made(*settings: str) -> CsvDataModule:
        words = [*TINY_MODEL, *TINY_RUN, "ocr.enabled=true", "ocr.windows=4", *settings]
        places = [f"data.file={tmp_path / 'my.csv'}", f"paths.cache={tmp_path / 'cache'}"]
        data = CsvDataModule(config.load(["data=csv", *words, *places]))
        data.tokenizer = build_tokenizer(data.cfg, ["exit"])
        return data

    return made


def test_a_data_module_reads_what_others_read(
    module: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"video": "sub/a.mp4", "text": "exit", "start": 2.2, "end": 2.6}
    (tmp_path / "tracks.jsonl").write_text(json.dumps(line))
    monkeypatch.setattr("tvr_bench.datamodules.base.build_windows", None)
    monkeypatch.setattr("tvr_bench.datamodules.refusals.engine_version", None)
    data = module("ocr.source=tracks", f"ocr.given={tmp_path}")
    data.prepare(["test"])
    whole, part, other = data.split("test").clips
    assert data.windows(whole.id) == ["", "", "exit", ""]
    assert data.windows(part.id) == ["exit", "exit", "", ""]
    assert data.windows(other.id) == [""] * 4
    assert [(e.id, e.stage) for e in data.ledger.entries] == [(other.id, "ocr")]
    ocr = report.protocol(data.cfg, data).ocr
    assert (ocr.enabled, ocr.source, ocr.engine, ocr.windows) == (True, "tracks", "tracks", 4)
    assert ocr.reads == 0


def test_kwai_is_named_in_the_record_and_an_engine_as_before(module: Make) -> None:
    data: Any = SimpleNamespace(
        reads_text=True, split=module().split, cfg=None, captions="all", prepared=()
    )
    for settings, expected in (
        (["ocr.source=kwai", "ocr.given=x"], ("kwai", "kwai", 0)),
        (["ocr.engine=easyocr"], ("engine", "easyocr", 2)),
    ):
        data.cfg = module(*settings).cfg
        ocr = report.protocol(data.cfg, data).ocr
        assert (ocr.source, ocr.engine, ocr.reads) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["ocr.source=kwai"], r"ocr\.source=kwai needs ocr\.given=FOLDER"),
        (["ocr.source=tracks", "ocr.given=nowhere"], "there is no nowhere"),
        (["ocr.source=kwai", "ocr.given=nowhere"], "nowhere is no folder"),
        (["ocr.source=qwai"], "Did you mean 'kwai'"),
        (["ocr.source=kwai", "ocr.given_fps=0"], r"ocr\.given_fps=0.* must be > 0"),
        (["ocr.source=kwai", "ocr.given_fps=fast"], "given_fps"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(
    settings: list[str], expected: str, module: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CsvDataModule, "read_split", None)
    with pytest.raises(UserError, match=expected):
        module(*settings).prepare(["test"])
