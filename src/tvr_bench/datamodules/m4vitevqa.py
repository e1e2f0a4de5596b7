"""M4-ViteVQA as retrieval: a question and its answer make a caption of the video (T-CARD).

T-CARD has a language model turn each pair into a statement. Those are not public: bring your own
with `data.statements`, or take the pair as it is, "Question? Answer".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tvr_bench.datamodules.annotated import AnnotatedDataModule, Counts, Entry
from tvr_bench.datamodules.annotation_files import read_json, read_table
from tvr_bench.errors import UserError
from tvr_bench.registry import register_dataset


@dataclass(frozen=True)
class Pair:
    """A question about a video, with its first answer that is not blank, if there is one."""

    id: str
    video: str
    question: str
    answer: str

    def caption(self) -> str:
        """Return question and answer as one text."""
        mark = "" if self.question.endswith(("?", ".", "!")) else "?"
        return f"{self.question}{mark} {self.answer}".strip()


@register_dataset("m4vitevqa")
class M4ViteVqaDataModule(AnnotatedDataModule):
    """M4-ViteVQA; `data.task` chooses the split, `data.statements` brings captions."""

    edition = "task"
    under = ("video", "videos")
    folders = ("Annotations", "annotations", "vitevqa/Annotations")
    counts: ClassVar[dict[str, Counts]] = {
        "t1s1train": Counts(5_373, 17_869),
        "t1s1val": Counts(596, 1_971),
        "t1s1test": Counts(971, 3_183),
        "t1s2train": Counts(5_444, 18_220),
        "t1s2val": Counts(525, 1_620),
        "t1s2test": Counts(680, 2_103),
        "t2train": Counts(4_772, 14_855),
        "t2val": Counts(179, 762),
        "t2test": Counts(290, 1_221),
    }

    def read_entries(self, name: str) -> list[Entry]:
        """Return the videos of a split by their first question, each with a caption per pair."""
        path = self.file(f"ViteVQA_0.0.2_{self.cfg.data.task}{name}.json")
        pairs = read_pairs(path)
        captions: dict[str, list[str]] = {}
        for pair, caption in zip(pairs, self._captions(pairs, path), strict=True):
            captions.setdefault(pair.video, []).append(caption)
        return [Entry(video, tuple(texts), (video,)) for video, texts in captions.items()]

    def official(self, name: str) -> Counts | None:
        """Return the videos and pairs of a split of the chosen task."""
        return self.counts[f"{self.cfg.data.task}{name}"]

    def notes(self) -> list[str]:
        """Return how the captions were made, and what of T-CARD's test is not known."""
        made = self.cfg.data.statements or "question and answer as they are, not as statements"
        return [
            f"captions: {made}; T-CARD's are statements of a language model that are not public",
            "T-CARD tests on 960 videos of t1s1, which it does not name; here are all 971",
        ]

    @cached_property
    def _statements(self) -> dict[str, str]:
        return read_statements(Path(self.cfg.data.statements))

    def _captions(self, pairs: Sequence[Pair], path: Path) -> list[str]:
        if not self.cfg.data.statements:
            return [pair.caption() for pair in pairs]
        lost = [pair.id for pair in pairs if pair.id not in self._statements]
        if lost:
            raise UserError(
                f"data.statements={self.cfg.data.statements} has no statement for {len(lost):,} of "
                f"{len(pairs):,} questions of {path.name}, such as {lost[0]}; add them"
            )
        return [self._statements[pair.id] for pair in pairs]


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs of a file of M4-ViteVQA; UserError, naming the pair, for another form."""
    rows = read_json(path, dict).get("data")
    if not isinstance(rows, list):
        raise UserError(f"{path} has no list 'data'; is it the right file?")
    pairs = {}
    for number, row in enumerate(rows, 1):
        pair = _pair(row, f"{path}: pair {number}")
        if pair.id in pairs:
            raise UserError(f"{path} has question {pair.id} twice; fetch it again")
        pairs[pair.id] = pair
    return list(pairs.values())


def _pair(row: Any, where: str) -> Pair:
    if not isinstance(row, dict):
        raise UserError(f"{where} is no object; fetch the file again")
    key, answers = row.get("question_id"), row.get("answers")
    if isinstance(key, bool) or not isinstance(key, (int, str)) or key == "":
        raise UserError(f"{where} has no 'question_id'; fetch the file again")
    for name in ("video_id", "question"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{where} has no text '{name}'; fetch the file again")
    if not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
        raise UserError(f"{where} has 'answers' that are no list of texts; fetch the file again")
    answer = next((one.strip() for one in answers if one.strip()), "")
    return Pair(str(key), row["video_id"], row["question"].strip(), answer)


def read_statements(path: Path) -> dict[str, str]:
    """Return the statement of each question by its id.

    From a JSON object, or from a CSV with the columns question_id,statement. Raises UserError for
    a file that is missing or of another form, for a blank statement and for an id twice.
    """
    if not path.is_file():
        raise UserError(f"data.statements={path} does not exist; give a JSON or CSV file")
    if path.suffix.lower() == ".csv":
        rows = read_table(path, ("question_id", "statement"))
        found = [(row["question_id"].strip(), row["statement"]) for row in rows]
    else:
        found = list(read_json(path, dict).items())
    statements: dict[str, str] = {}
    for key, text in found:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path} has no text for question {key[:40]!r}; write its statement")
        if key in statements:
            raise UserError(f"{path} has question {key[:40]!r} twice; keep one of them")
        statements[key] = text.strip()
    return statements
