"""What a comparison shows of a claim: judged over all seeds, beyond their spread, and said so."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from leaderboard.fake_runs import make_split, write_run
from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.launch.grid import load_sweep
from tvr_bench.launch.sweep import Plan

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SPLIT = make_split(128)
VERDICTS = {"holds", "fails", "not shown"}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("claims_held")


@pytest.fixture
def judged(held: Any) -> Any:
    return importlib.import_module("claims_judged")


@pytest.fixture
def claims(judged: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    read = cache(config._read_yaml)  # most of the time of making a hundred configurations
    monkeypatch.setattr(config, "_read_yaml", lambda path: copy.deepcopy(read(path)))
    return importlib.import_module("claims")


def _runs(
    root: Path, sides: Mapping[str, list[Any]], units: Mapping[str, str] | None = None
) -> dict[str, dict[int, Path]]:
    """Return runs of systems whose seeds have these strengths."""
    return {
        side: {
            seed: write_run(
                *(root, f"{side}{seed}"),
                model=side,
                seed=seed,
                strength=strength,
                split=SPLIT,
                units=units,
            )
            for seed, strength in enumerate(strengths)
        }
        for side, strengths in sides.items()
    }


def _judge(judged: Any, root: Path, first: list[Any], second: list[Any], **kind: Any) -> Any:
    runs = _runs(root, {"tcard": first, "bicnet": second})
    claim = judged.Claim("T-CARD", "a claim", "tcard", "bicnet", **kind)
    return judged.judge([claim], runs)[claim]


def test_what_one_seed_of_three_lost_is_not_shown(judged: Any, tmp_path: Path) -> None:
    said = _judge(judged, tmp_path, [3.0, 3.0, -2.0], [3.0, 3.0, 3.0])
    assert said.p < 0.05 and said.verdict == "not shown"
    assert said.reason == "Within what seeds differ by."


@pytest.mark.parametrize(("ahead", "said"), [(3.0, "holds"), (-1.0, "fails")])
def test_what_every_seed_shows_is_shown(
    judged: Any, tmp_path: Path, ahead: float, said: str
) -> None:
    found = _judge(judged, tmp_path, [ahead] * 3, [1.0] * 3)
    assert found.verdict == said
    assert found.reason == ("" if said == "holds" else "The other one is better.")


def test_one_training_of_each_shows_nothing(judged: Any, tmp_path: Path) -> None:
    cost = {"kind": "cost", "margin": 90.0}
    for name, kind in (("gain", {}), ("cost", cost), ("same", cost | {"kind": "same"})):
        said = _judge(judged, tmp_path / name, [4.0], [0.0], **kind)
        assert said.verdict == "not shown" and said.reason == "One training of each shows nothing."


def test_a_margin_holds_over_videos_and_over_seeds(judged: Any, tmp_path: Path) -> None:
    cost = {"kind": "cost", "margin": 20.0}
    assert _judge(judged, tmp_path / "a", [2.0] * 3, [2.0] * 3, **cost).verdict == "holds"
    scattered = _judge(judged, tmp_path / "b", [4.0, 4.0, -1.0], [2.0] * 3, **cost)
    assert scattered.verdict == "not shown" and "beyond the margin" in scattered.reason
    assert _judge(judged, tmp_path / "c", [-2.0] * 3, [4.0] * 3, **cost).verdict == "fails"


def test_two_stages_are_compared_seed_by_seed(judged: Any, tmp_path: Path) -> None:
    same = {"kind": "same", "margin": 0.5}
    runs = _runs(tmp_path, {"tcard": [1.0, 3.0, 2.0], "bicnet": [0.0, 3.0]})
    claim = judged.Claim("EERCF", "loses nothing", "one", "two", **same)
    equal = judged.judge([claim], {"one": runs["tcard"], "two": runs["tcard"]})[claim]
    assert equal.verdict == "holds" and equal.by_seed == (0.0, 0.0, 0.0)
    some = {**runs["tcard"], 0: runs["bicnet"][0]}
    found = judged.judge([claim], {"one": some, "two": runs["tcard"]})[claim]
    assert found.verdict == "not shown" and found.by_seed[1:] == (0.0, 0.0)
    other = judged.judge([claim], {"one": runs["bicnet"], "two": runs["tcard"]})[claim]
    assert other.verdict == "fails" and len(other.by_seed) == 2  # the seeds that both have


@pytest.mark.parametrize(("strength", "said"), [(0.0, "holds"), (4.0, "fails")])
def test_chance_is_what_guessing_reaches(
    judged: Any, tmp_path: Path, strength: float, said: str
) -> None:
    runs = _runs(tmp_path, {"meanpool": [{"temporal": strength}] * 3})
    claim = judged.Claim(
        "This suite", "at chance", "meanpool", "", "in_group_R@1", "temporal", "chance"
    )
    found = judged.judge([claim], runs)[claim]
    assert found.found.second == 25.0 and found.verdict == said


def test_two_that_guess_are_said_to_guess(judged: Any, tmp_path: Path) -> None:
    inside = {"metric": "in_group_R@1", "skill": "temporal"}
    found = _judge(judged, tmp_path, [{}] * 3, [{}] * 3, **inside)
    assert found.verdict == "not shown"
    assert found.reason == "Both are where guessing is."
    learned = _judge(judged, tmp_path / "b", [{"temporal": 4.0}] * 3, [{}] * 3, **inside)
    assert not learned.at_chance


def test_groups_are_drawn_together_and_gains_corrected_together(
    judged: Any, tmp_path: Path
) -> None:
    units = {clip.id: f"g{i // 4}" for i, clip in enumerate(SPLIT.clips)}
    runs = _runs(tmp_path, {"tcard": [3.0] * 2, "bicnet": [1.0] * 2, "cret": [1.2] * 2}, units)
    gains = [judged.Claim("CRET", one, one, "bicnet") for one in ("tcard", "cret")]
    alone = judged.judge(gains[:1], runs)[gains[0]]
    assert (alone.found.queries, alone.found.videos) == (128, 32)
    assert judged.judge(gains, runs)[gains[0]].p == pytest.approx(2 * alone.p)


def test_every_claim_names_cells_and_every_sentence_a_claim(held: Any) -> None:
    labels = {cell.label for cell in load_sweep("claims").cells}
    named = {c.first for c in held.CLAIMS} | {c.second for c in held.CLAIMS if c.second}
    assert named <= labels and set(held.MODELS) <= labels
    names = [claim.name for claim in held.CLAIMS]
    assert len(set(names)) == len(names)
    assert {claim.paper for claim in held.CLAIMS} == set(held.PAPERS)
    for table in held.WHY.values():
        for name, sentences in table.items():
            assert name in names and set(sentences) <= VERDICTS
            # figures come from the records; a sentence that has one may come to contradict them
            assert not [text for text in sentences.values() if re.search(r"[0-9]", text)]


def test_two_cells_of_a_claim_differ_in_what_it_is_about(held: Any) -> None:
    cells = {cell.label: dict(cell.settings) for cell in load_sweep("claims").cells}
    for claim in held.CLAIMS:
        first, second = cells[claim.first], cells.get(claim.second, {})
        if claim.kind == "same":
            parted = {k for k in first | second if first.get(k) != second.get(k)}
            assert parted == {"eval.two_stage"}
        elif second and first["model"] == second["model"]:
            assert first != second


def test_all_models_are_long_alike() -> None:
    cells = {cell.label: dict(cell.settings) for cell in load_sweep("claims").cells}
    usual = config.load(["data=signvid"]).trainer.epochs
    long = {label: own for label, own in cells.items() if label.endswith(", long")}
    assert {own["model"] for own in long.values()} == set(config.names("model"))
    for own in long.values():
        assert own == {"model": own["model"], "trainer.epochs": 3 * usual}


def _write(planned: Plan, strengths: Mapping[str, Any], **changes: Any) -> None:
    for cell, seed, task in planned.tasks:
        if cell.label in strengths:
            folder = write_run(
                *(task.find().parent, task.find().name),
                model=str(cell.settings["model"]),
                seed=seed,
                strength=strengths[cell.label],
                split=SPLIT,
                **changes,
            )
            (folder / "csv").mkdir()
            (folder / "csv" / "metrics.csv").write_text(
                "step,train/loss,val/temporal/in_group_R@1\n"
                f"9,2.5,\n9,,{25 + seed}\n19,,{50 + 2 * seed}\n"
            )


def test_the_page_has_both_tables_and_says_what_was_not_run(claims: Any, tmp_path: Path) -> None:
    plans = claims.plans_of([f"run.root={tmp_path}"], [0, 1, 2])
    reads = {"appearance": 2.0, "temporal": 0.0, "relation": 0.0, "scene_text": 4.0}
    sees = {**reads, "scene_text": 0.0}
    frozen = {
        "protocol__towers": {"name": "signvid", "sha256": "c" * 64},
        "protocol__frozen": "image",
    }
    ran = {"mean pooling": sees, "T-CARD": reads, "T-CARD, no scene text": sees}
    _write(plans[0], ran, **frozen)
    _write(claims.part(plans[1], ["main"]), dict.fromkeys(claims.MODELS, sees))
    tables = [claims.table("pretrained", "Pretrained", plans[0])]
    tables.append(claims.table("scratch", "From scratch", plans[1]))
    text = claims.page(tables)
    first, second = text.split("## From scratch\n")
    assert "towers pretrained (`signvid`), frozen: image; 9 runs" in first
    assert "towers from random weights, frozen: none; 15 runs" in second
    finds = "scene text finds what only reading can find"
    assert re.search(rf"\| {finds} \| \*\*holds\*\* \| .*window captions and nowhere else", first)
    assert finds in re.search(r"Not run: (.*)", second.split("T-CARD")[1])[1]  # type: ignore[index]
    assert "| above mean pooling | not shown |" in second
    assert "### Pretrained: CRET\n\nNot run: above mean pooling;" in first
    assert re.search(r"\| T-CARD \| 3 \| ", first) and "T-CARD, long" in first
    assert re.search(r"\| CRET \| [0-9]+ \| [0-9]+ not run \| 3 not shown, [0-9]+ not run \|", text)

    claims.draw(tables[0], tmp_path)
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("skills.png", "learning.png"))


def test_a_plan_has_two_tables_and_can_be_run_in_parts(claims: Any, tmp_path: Path) -> None:
    main, scratch = plans = claims.plans_of([f"run.root={tmp_path}"], [0, 1])
    assert all("trainer.threads=1" in task.settings for _, _, task in main.tasks)
    names = [{task.name for _, _, task in one.tasks} for one in plans]
    assert not names[0] & names[1] and main.folder != scratch.folder
    kept = claims.part(main, ["main", "CRET, NCE"])
    assert {cell.label for cell, _, _ in kept.tasks} == {*claims.MODELS, "CRET, NCE"}
    assert len(kept.tasks) == 12 and claims.part(main, []) is main
    with pytest.raises(
        UserError, match=r"--only 'CRET, NCEE' is no cell\. Did you mean 'CRET, NCE'"
    ):
        claims.part(main, ["CRET, NCEE"])
    tables = [claims.table(key, key, one) for key, one in zip("ab", plans, strict=True)]
    assert "Not run." in claims.page(tables)
    claims.draw(tables[0], tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_settings_may_stand_between_the_options(
    claims: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--only", "CRET", f"run.root={tmp_path}", "--dry-run", "seeds=1", "optim.lr=0.003"]
    monkeypatch.setattr("sys.argv", ["claims.py", *words])
    assert claims.main() == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "model=cret" in line)
    assert "optim.lr=0.003" in line and not list(tmp_path.iterdir())
