"""The benchmarks: that every script can be run, and that the harness calculates what it says."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("*.py"))
HERE = {"cpu": "a CPU", "cores": 2, "torch": "2.11", "python": "3.12", "threads": 1}
ROOFS = {"gemm_fp32_gflops": 120.4, "gemm_bf16_gflops": 333.0, "memory_gbs": 40.0}
TIMES = {"min_ms": 1.0, "median_ms": 2.0, "iqr_ms": 0.5, "cpu_ms": 2.0}


def _module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__(name)


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _module("harness", monkeypatch)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _module("report", monkeypatch)


@pytest.fixture
def perf(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _module("perf", monkeypatch)


def _row(id: str = "E1", **changes: Any) -> dict[str, Any]:
    duel = {"peer": TIMES, "ours": TIMES, "ratio": 5.5, "cpu_ratio": 5.0, "aa": 1.0, "load": 0.0}
    row: dict[str, Any] = {
        "id": id,
        "what": "1k x 1k",
        "agreement": "ranks equal",
        "peer": "a peer",
        "duel": duel,
        "goal": 5.0,
        "roof": 0.8,
        "memory_mb": [200.0, 10.0],
        "note": "",
        "figures": {},
        "at_most": {},
        "at_least": {},
        "device": None,
        "date": "2030-01-02T03:04:05+00:00",
        "git": "0123456789",
    }
    return {**row, **changes}


def _duel(**changes: float) -> dict[str, Any]:
    return {**_row()["duel"], **changes}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_compiles_and_says_how_it_is_run(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
    compile(tree, str(path), "exec")
    doc = ast.get_docstring(tree)
    assert doc is not None
    text = path.read_text(encoding="utf-8")
    if '__name__ == "__main__"' in text and "Not a table itself" not in doc:
        assert f"benchmarks/{path.name}" in doc


def test_every_script_of_the_harness_stops_with_an_error_where_outputs_differ(
    perf: ModuleType,
) -> None:
    for name in perf.scripts():
        text = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
        assert "SystemExit" in text or "assert" in text, f"{name} never stops"
        assert "save(" in text and "arguments(__doc__" in text


def test_a_duel_takes_turns_and_pairs_them(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0, cpu=0.0)
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(harness.time, "process_time", lambda: clock.cpu)
    monkeypatch.setattr(harness, "_others", lambda: (clock.now, 0.25 * clock.now))
    order: list[str] = []
    slow = iter([1.0, 0.4, 0.4, 0.8, 0.8, 0.4, 0.4])  # a warm-up, then two turns each
    fast = iter([9.0, 0.1, 0.1, 0.1])

    def side(name: str, seconds: Any) -> Any:
        def call() -> None:
            order.append(name)
            spent = next(seconds)
            clock.now += spent
            clock.cpu += 2 * spent

        return call

    found = harness.duel(side("peer", slow), side("ours", fast), 3)
    # a peer of a second is slow: it is not run a second time in each turn
    assert order == ["peer", "ours", *("peer", "ours") * 3]
    assert found.ratio == pytest.approx(4.0) and found.cpu_ratio == pytest.approx(4.0)
    assert found.peer.min_ms == pytest.approx(400) and found.peer.median_ms == pytest.approx(400)
    assert found.peer.iqr_ms == pytest.approx(200) and found.peer.cpu_ms == pytest.approx(800)
    assert found.aa == pytest.approx(0.6 / 0.4)
    assert found.load == pytest.approx(0.25)


def test_a_quick_peer_runs_twice_a_turn_and_short_calls_are_repeated(harness: ModuleType) -> None:
    peer: list[int] = []
    ours: list[int] = []
    found = harness.duel(lambda: peer.append(1), lambda: ours.append(1), 4)
    calls = (len(ours) - 1) // 4
    assert 1 < calls <= 1000 and len(ours) == 1 + 4 * calls
    assert (len(peer) - 1) % (2 * 4) == 0
    assert found.ours.min_ms <= found.ours.median_ms
    assert harness.alone(lambda: ours.append(1), 3).min_ms > 0


def test_times_are_those_of_the_samples(harness: ModuleType) -> None:
    times = harness._times([(n / 1000, 2 * n / 1000) for n in (4, 1, 3, 2, 5)])
    assert (times.min_ms, times.median_ms) == (pytest.approx(1), pytest.approx(3))
    assert times.iqr_ms == pytest.approx(2) and times.cpu_ms == pytest.approx(6)
    assert harness._times([(1.0, 1.0)]).iqr_ms == 0


@pytest.mark.parametrize(
    ("aa", "load", "noisy"),
    [(1.0, 0.0, False), (0.97, 0.5, False), (0.96, 0.0, True), (1.04, 0.0, True), (1.0, 0.6, True)],
)
def test_a_row_is_noisy_where_the_guard_says_so(
    report: ModuleType, aa: float, load: float, noisy: bool
) -> None:
    assert report.noisy({"aa": aa, "load": load}) is noisy
    cells = "\n".join(report._table([_row(duel=_duel(aa=aa, load=load))]))
    assert cells.count("*noisy*") == (2 if noisy else 0), "at the ratio and at the goal"


def test_the_peak_is_that_of_another_process_above_its_inputs(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "eater.py").write_text(
        "def eat(n):\n    return len(b'x' * n * 10**6)\n"
        "def after(n):\n    held = b'x' * n * 10**6\n    return lambda: len(held)\n"
        "def fail():\n    raise ValueError('no food')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert 180 < harness.peak_mb("eater:eat", 200) < 230
    assert harness.peak_mb("eater:after", 200) < 30
    with pytest.raises(RuntimeError, match="no food"):
        harness.peak_mb("eater:fail")


def test_results_are_merged_by_id_size_and_machine(report: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    place = {"size": "small", "machine": HERE, "roofs": ROOFS}
    report.merge(path, [_row("E1"), _row("E2"), _row("E1", device="GPU")], **place)
    report.merge(path, [_row("E1", goal=7.0)], **place)
    report.merge(path, [_row("E1")], **{**place, "size": "full"})
    table = report.merge(path, [_row("E1")], **{**place, "machine": {**HERE, "threads": 2}})
    assert table["machine"]["threads"] == 2 and len(table["rows"]) == 1
    tables = report.read(path)
    assert [(t["size"], t["machine"]["threads"]) for t in tables] == [
        ("small", 1),
        ("full", 1),
        ("small", 2),
    ]
    found = [(row["id"], row["device"], row["goal"]) for row in tables[0]["rows"]]
    assert found == [("E1", None, 7.0), ("E2", None, 5.0), ("E1", "GPU", 5.0)]


def test_the_page_says_what_was_missed_and_links_the_other_pages(
    report: ModuleType, tmp_path: Path
) -> None:
    rows = [
        _row("A1", figures={"recall": 0.98765}, note="A note."),
        _row("A2", goal=6.0, what="a | b"),
        _row("A3", duel=None, goal=2.0),
        _row("A4", duel=TIMES, goal=None, at_most={"s": (0.6, 0.5), "MB": (299.0, 300.0)}),
        _row("A5", goal=None, at_least={"rows": (799, 800)}, device="H200"),
    ]
    for size, threads in (("small", 1), ("full", 2)):
        machine = {**HERE, "threads": threads}
        report.merge(tmp_path / "nothing.json", rows, size=size, machine=machine, roofs=ROOFS)
    (tmp_path / "decode.json").write_text('{"rows": {}}')
    path = report.write_readme(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert path.parent == tmp_path, "the page of a folder of results lies in it"
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if "|" in line}
    assert "| **5.5** | 5 | 5x: met | 80 % | 200 | 10 |" in lines["A1"]
    assert "6x: **missed**" in lines["A2"] and "a \\| b" in lines["A2"]
    assert "2x: **missed**" in lines["A3"], "what was not measured is not met"
    assert "s 0.6, at most 0.5: **missed**; MB 299, at most 300: met" in lines["A4"]
    assert "rows 799, at least 800: **missed**" in lines["A5"] and "(H200)" in lines["A5"]
    assert "- A1: A note. recall 0.988; peer against itself 1.00" in text
    assert text.index("2 threads, torch 2.11") < text.index("<details>"), "full sizes come first"
    assert "fp32 GEMM 120 GFLOP/s" in text
    assert "## `decode.py`" not in text and "[decode.md](decode.md): How fast twelve" in text


def test_a_column_without_values_is_left_out(report: ModuleType) -> None:
    (head, _, row) = report._table([_row(roof=None, memory_mb=None, goal=None)])
    assert "roof" not in head and "MB" not in head and "goal" not in head
    assert head.count("|") == row.count("|")


def test_the_kept_page_is_that_of_the_kept_results(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(report.FOLDER, raising=False)
    assert report.results_folder() == BENCHMARKS / "results"
    results = tmp_path / "results"
    results.mkdir()
    for path in report.results_folder().glob("*.json"):
        (results / path.name).write_bytes(path.read_bytes())
    made = report.write_readme(results).read_text(encoding="utf-8")
    assert (BENCHMARKS / "README.md").read_text(encoding="utf-8") == made


def test_saved_rows_are_stamped(
    harness: ModuleType, report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(report.FOLDER, str(tmp_path))
    monkeypatch.setattr(harness, "roofs", lambda: ROOFS)
    row = harness.Row("X", "w", "equal", memory_mb=(None, 3.0), figures={"n": 1})
    path = harness.save("x", [row], argparse.Namespace(small=True, threads=1))
    ((table,),) = [report.read(path)]
    assert table["size"] == "small" and table["machine"] == report.machine(1)
    (kept,) = table["rows"]
    assert kept["date"][:2] == "20" and kept["memory_mb"] == [None, 3.0]
    assert (tmp_path / "README.md").exists()
    with pytest.raises(ValueError, match="JSON"):
        harness.save(
            "x",
            [harness.Row("X", "w", "equal", roof=float("nan"))],
            argparse.Namespace(small=True, threads=1),
        )
    assert json.loads(path.read_text())["tables"] == [table], "the old results are still there"


def test_a_fall_by_more_than_a_fifth_is_a_drop(perf: ModuleType) -> None:
    def table(machine: dict[str, Any], **ratios: float) -> dict[str, Any]:
        rows = [_row(id, duel=_duel(cpu_ratio=ratio)) for id, ratio in ratios.items()]
        return {"size": "small", "machine": machine, "rows": [*rows, _row("T", duel=TIMES)]}

    kept = [table(HERE, A=5.0, B=5.0, C=5.0), table({**HERE, "cpu": "another"}, D=9.0)]
    kept += [{**table(HERE, D=9.0), "size": "full"}]
    changes = {c.id: c for c in perf.compare(kept, [table(HERE, A=4.01, B=3.99, D=1.0)])}
    assert {id: change.dropped for id, change in changes.items()} == {
        "A": False,
        "B": True,
        "C": False,
        "D": False,
    }
    assert changes["C"].now is None and changes["D"].kept is None
    assert str(changes["B"]) == "B: 5.00x -> 3.99x DROPPED"


def test_perf_runs_every_script_and_reports_those_that_fail(
    perf: ModuleType,
    report: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(perf, "HERE", tmp_path)
    monkeypatch.setenv(report.FOLDER, str(tmp_path / "results"))
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    marked = '"""\nimport harness\n"""\n'  # found by its text, quick without the import
    (tmp_path / "broken.py").write_text(f"{marked}raise SystemExit('no peer')\n")
    (tmp_path / "other.py").write_text("import json\n")
    place = {"size": "small", "machine": HERE, "roofs": ROOFS}
    (tmp_path / "good.py").write_text(
        f"{marked}from report import merge, results_folder\n"
        f"row = {_row()!r}\n"
        "row['duel']['cpu_ratio'] = float(open('ratio').read())\n"
        f"merge(results_folder() / 'good.json', [row], **{place!r})\n"
    )
    (tmp_path / "ratio").write_text("5")
    assert perf.scripts() == ["broken", "good"]
    monkeypatch.setattr(sys, "argv", ["perf.py", "--keep"])
    assert perf.main() == 1
    out = capsys.readouterr().out
    assert "broken: FAILED: no peer" in out and "E1: - -> 5.00x (never kept here)" in out
    (tmp_path / "ratio").write_text("3.9")
    monkeypatch.setattr(sys, "argv", ["perf.py", "good"])
    assert perf.main() == 1
    assert "E1: 5.00x -> 3.90x DROPPED" in capsys.readouterr().out
    (tmp_path / "ratio").write_text("4.1")
    assert perf.main() == 0
    kept = report.read(tmp_path / "results" / "good.json")
    assert kept[0]["rows"][0]["duel"]["cpu_ratio"] == 5.0, "only --keep keeps"


@pytest.mark.parametrize(
    ("words", "threads"), [(["--small"], 1), ([], 2), (["--small", "--threads", "2"], 2)]
)
def test_the_command_line_sets_the_threads(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, words: list[str], threads: int
) -> None:
    monkeypatch.setattr(harness.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(sys, "argv", ["x.py", *words, "--more", "y"])
    before = torch.get_num_threads()
    with harness.threads(3):
        options = harness.arguments("doc", lambda parser: parser.add_argument("--more"))
        assert (options.small, options.threads) == ("--small" in words, threads)
        assert (options.repeats, options.more) == (3 if options.small else 7, "y")
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == before
