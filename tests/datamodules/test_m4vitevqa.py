"""M4-ViteVQA: pairs of question and answer, or a user's statements, as captions of videos.

Its files may not be passed on, so small ones of the same form are written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.sets import broken_json, refused, saved_by_others, settings_at, write
from tvr_bench.datamodules.annotated import Counts
from tvr_bench.datamodules.m4vitevqa import M4ViteVqaDataModule, read_pairs, read_statements
from tvr_bench.errors import UserError


def pair(key: int, video: str, question: str = "What is it?", *answers: str) -> dict[str, Any]:
    """Return a pair in the form of the data set."""
    return {
        "question": question,
        "source1": "Single frame",
        "source2": "Text",
        "video_id": video,
        "answers": list(answers) or ["a boat"],
        "video_width": 1280,
        "video_height": 720,
        "question_id": key,
    }


def annotations(*pairs: dict[str, Any]) -> dict[str, Any]:
    """Return a whole file."""
    return {
        "dataset_type": "test",
        "dataset_name": "vtvqa",
        "dataset_version": "0.0.2",
        "data": list(pairs),
    }


PAIRS = (
    pair(7, "00021", "What does the sign say?", "STOP", "stop sign"),
    pair(3, "00003", "Who sails", "a man "),
    pair(9, "00021", "Is it red?", " ", "Yes"),
)
Make = Callable[..., M4ViteVqaDataModule]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that makes the data module over a small file of one split."""
    counts = {f"{task}{split}": Counts(2, 3) for task in ("t1s1", "t1s2", "t2") for split in SPLITS}
    monkeypatch.setattr(M4ViteVqaDataModule, "counts", counts)

    def made(
        *settings: str, pairs: Any = PAIRS, name: str = "t1s1test", folder: str = ""
    ) -> M4ViteVqaDataModule:
        files = {f"video/{video}.mp4": b"" for video in ("00021", "00003")}
        write(files | {f"{folder or '.'}/ViteVQA_0.0.2_{name}.json": annotations(*pairs)}, tmp_path)
        return M4ViteVqaDataModule(settings_at(tmp_path, "data=m4vitevqa", *settings))

    return made


SPLITS = ("train", "val", "test")


def test_a_video_has_a_caption_of_each_of_its_pairs(make: Make) -> None:
    split = make().split("test")
    assert [(c.id, c.path.name) for c in split.clips] == [
        ("00021", "00021.mp4"),
        ("00003", "00003.mp4"),
    ]
    assert [(q.clip_id, q.text) for q in split.queries] == [
        ("00021", "What does the sign say? STOP"),
        ("00021", "Is it red? Yes"),
        ("00003", "Who sails? a man"),
    ]
    assert all(clip.path.is_file() for clip in split.clips)


def test_a_pair_without_an_answer_is_its_question(make: Make) -> None:
    silent = {**PAIRS[1], "answers": ["", " "]}
    assert make(pairs=(*PAIRS[::2], silent)).split("test").queries[2].text == "Who sails?"


@pytest.mark.parametrize("task", ["t1s1", "t1s2", "t2"])
@pytest.mark.parametrize("split", SPLITS)
def test_each_task_has_its_three_files(task: str, split: str, make: Make) -> None:
    data = make(f"data.task={task}", name=f"{task}{split}", folder="Annotations")
    assert len(data.split(split).queries) == 3
    for other in set(SPLITS) - {split}:
        with pytest.raises(UserError, match=rf"needs ViteVQA_0\.0\.2_{task}{other}\.json"):
            data.split(other)


def test_other_counts_than_the_official_are_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="2 videos and 2 captions instead of the official"):
        make(pairs=PAIRS[:2]).split("test")
    with pytest.raises(UserError, match=r"data\.task=t3 is impossible"):
        make("data.task=t3")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"official 971 .*3,183 .*t1s1test\.json"):
        make(pairs=PAIRS).split("test")


def test_the_counts_are_those_of_the_data_sets_files() -> None:
    counts = M4ViteVqaDataModule.counts
    assert sum(counts[f"t1s1{s}"].captions or 0 for s in SPLITS) == 23_023
    assert sum(counts[f"t1s1{s}"].clips or 0 for s in SPLITS) == 6_940
    assert sum(counts[f"t1s2{s}"].captions or 0 for s in SPLITS) == 21_943
    assert sum(counts[f"t2{s}"].captions or 0 for s in SPLITS) == 16_838


def test_statements_take_the_place_of_pairs(make: Make, tmp_path: Path) -> None:
    texts = {"7": " The sign says STOP. ", "3": "A man sails.", "9": "It is red.", "99": "unused"}
    (tmp_path / "mine.json").write_text(json.dumps(texts))
    split = make(f"data.statements={tmp_path / 'mine.json'}").split("test")
    assert [q.text for q in split.queries] == ["The sign says STOP.", "It is red.", "A man sails."]
    table = "question_id,statement\n7,The sign says STOP.\n3,A man sails.\n9,It is red.\n"
    (tmp_path / "mine.csv").write_text(table)
    same = make(f"data.statements={tmp_path / 'mine.csv'}").split("test")
    assert same == split


def test_a_question_without_statement_is_no_pair_instead(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"7": "The sign says STOP."}')
    with pytest.raises(UserError, match=r"no statement for 2 of 3 questions .*, such as 3; add"):
        make(f"data.statements={tmp_path / 'mine.json'}").split("test")


def test_how_captions_were_made_is_noted(make: Make) -> None:
    assert "question and answer" in make().notes()[0]
    assert "mine.json" in make("data.statements=mine.json").notes()[0]


LONG = "why " * 2500
GOOD = {
    "plain": (json.dumps(annotations(*PAIRS)), "What does the sign say?"),
    **{k: (v, "What does") for k, v in saved_by_others(annotations(*PAIRS)).items()},
    "emoji": (
        json.dumps(annotations(pair(1, "1", "Is it 🐕‍🦺?")), ensure_ascii=False),
        "Is it 🐕‍🦺?",
    ),
    "10,000 characters": (json.dumps(annotations(pair(1, "1", LONG))), LONG.strip()),
    "the same pair of two videos": (json.dumps(annotations(pair(1, "1"), pair(2, "2"))), "What"),
    "a question twice": (json.dumps(annotations(pair(1, "1"), pair(2, "1"))), "What is it?"),
    "ids as text": (json.dumps(annotations({**PAIRS[0], "question_id": "7"})), "What does"),
    "no answer": (json.dumps(annotations({**PAIRS[0], "answers": []})), "What does"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read(name: str, tmp_path: Path) -> None:
    content, question = GOOD[name]
    write({"pairs.json": content}, tmp_path)
    path = tmp_path / "pairs.json"
    assert read_pairs(path)[0].caption().startswith(question)


def _with(**changes: Any) -> str:
    return json.dumps(annotations(PAIRS[0], {**PAIRS[1], **changes}))


BAD = {
    **broken_json(annotations(*PAIRS)),
    "no data": ("{}", "has no list 'data'"),
    "data is an object": ('{"data": {}}', "has no list 'data'"),
    "pair is text": ('{"data": ["x"]}', "pair 1 is no object"),
    "no id": (_with(question_id=None), "pair 2 has no 'question_id'"),
    "empty id": (_with(question_id=""), "pair 2 has no 'question_id'"),
    "id is true": (_with(question_id=True), "pair 2 has no 'question_id'"),
    "id is broken": (_with(question_id=1.5), "pair 2 has no 'question_id'"),
    "id twice": (_with(question_id=7), "has question 7 twice"),
    "no video": (_with(video_id=None), "pair 2 has no text 'video_id'"),
    "video is a number": (_with(video_id=3151), "pair 2 has no text 'video_id'"),
    "no question": (_with(question=None), "pair 2 has no text 'question'"),
    "blank question": (_with(question=" \t"), "pair 2 has no text 'question'"),
    "answers are text": (_with(answers="yes"), "pair 2 has 'answers' that are no list of texts"),
    "answers are missing": (_with(answers=None), "'answers' that are no list of texts"),
    "answer is a number": (_with(answers=[16]), "'answers' that are no list of texts"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line_with_the_place(name: str, tmp_path: Path) -> None:
    content, expected = BAD[name]
    write({"pairs.json": content}, tmp_path)
    path = tmp_path / "pairs.json"
    with refused(expected, path):
        read_pairs(path)


@pytest.mark.parametrize("video", ["../../etc/passwd", "/etc/passwd", "a\1b", "", "x" * 200, ".."])
def test_a_video_that_is_no_safe_name_is_refused(video: str, make: Make) -> None:
    with pytest.raises(UserError, match=r"no safe name|no text 'video_id'"):
        make(pairs=(*PAIRS[::2], {**PAIRS[1], "video_id": video})).split("test")


STATEMENTS = {
    "empty JSON": ("s.json", "", "not readable JSON"),
    "a list": ("s.json", '["a"]', "must hold an object"),
    "a number": ("s.json", '{"7": 1}', "no text for question '7'"),
    "nothing": ("s.json", '{"7": null}', "no text for question '7'"),
    "blank": ("s.json", '{"7": "  "}', "no text for question '7'"),
    "a list of texts": ("s.json", '{"7": ["a"]}', "no text for question '7'"),
    "latin-1": ("s.json", '{"7": "é"}'.encode("latin-1"), "not UTF-8"),
    "empty CSV": ("s.csv", "", "no column 'question_id'"),
    "no header": ("s.csv", "7,The sign\n", "no column 'question_id'"),
    "other columns": ("s.csv", "question_id,text\n7,a\n", "no column 'statement'"),
    "too few cells": ("s.csv", "question_id,statement\n7\n", "line 2 has too few cells"),
    "blank cell": ("s.csv", "question_id,statement\n7,\n", "no text for question '7'"),
    "id twice": ("s.csv", "question_id,statement\n7,a\n7,b\n", "question '7' twice"),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_bad_statements_are_one_line_with_the_place(name: str, tmp_path: Path) -> None:
    file, content, expected = STATEMENTS[name]
    write({file: content}, tmp_path)
    path = tmp_path / file
    with refused(expected, path):
        read_statements(path)


def test_statements_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        read_statements(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", ["\ufeff{content}", "{content}\n\n", "{crlf}"])
def test_statements_of_any_editor_are_read(content: str, tmp_path: Path) -> None:
    table = 'question_id,statement\n7,"a ""big"" 🐕‍🦺, wet\nand cold"\n'
    text = content.format(content=table, crlf=table.replace("\n", "\r\n"))
    path = tmp_path / "S.CSV"
    path.write_bytes(text.encode())
    assert " ".join(read_statements(path)["7"].split()) == 'a "big" 🐕‍🦺, wet and cold'
