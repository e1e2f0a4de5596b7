"""The kept results of the benchmarks, and the page that is made from all of them.

Run: `.venv/bin/python benchmarks/report.py`, which makes `benchmarks/README.md` again from
`benchmarks/results/*.json`; every script does the same when it has saved its rows.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tvr_bench.files import atomic_write

HERE = Path(__file__).parent
FOLDER = "TVR_BENCH_RESULTS"  # another folder for results; its page is written into it as well
AA = (0.97, 1.03)  # a peer against itself outside of this is noise
LOAD = 0.5  # processors that others may keep busy during a measurement
_COLUMNS = (
    *("id", "what", "peer", "agreement", "peer ms", "ours ms", "ratio", "CPU ratio", "goal"),
    *("of the roof", "peer MB", "ours MB"),
)
_INTRO = """# How fast, against what, and is it the same answer

Made from `results/*.json` by `report.py`; not edited by hand.

```
.venv/bin/python -m pip install --editable .[peers]   # what is compared with, where needed
.venv/bin/python benchmarks/NAME.py [--small] [--threads 1|2] [--repeats 7]
make perf                                    # all small sizes, against the kept results
```

Peers that exist only as repositories are never copied: `TVR_PEERS=DIR` names a folder of checkouts,
and their rows are left out without it.

A row counts only beside its agreement: every script compares the outputs first and stops where
they differ. Both sides then take turns in one process after a warm-up. Milliseconds are the median
of the turns (interquartile range); *ratio* is the median of peer / ours of wall clock, *CPU ratio*
that of processor time. *noisy* marks a row whose peer against itself left {low} to {high}, or
during which others kept more than {load} processors busy: it is shown, and is no evidence. *Of the
roof* is the time of the bare matrix product over ours. MB are the peak of a fresh process above its
imports.
"""


def results_folder() -> Path:
    """Return the folder of results: `benchmarks/results`, or what TVR_BENCH_RESULTS names."""
    return Path(os.environ.get(FOLDER) or HERE / "results")


def machine(threads: int) -> dict[str, Any]:
    """Return what a time depends on: processor, cores, torch and the number of threads."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "threads": threads,
    }


def noisy(duel: Mapping[str, Any]) -> bool:
    """Return whether a duel's A/A guard or the load tells that its ratio is no evidence."""
    return not (AA[0] <= duel["aa"] <= AA[1] and duel["load"] <= LOAD)


def merge(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    size: str,
    machine: Mapping[str, Any],
    roofs: Mapping[str, float],
) -> dict[str, Any]:
    """Put the rows into the results at `path`, in place of those of the same id, and keep the rest.

    Rows belong together by size and machine. Returns the table that they stand in.
    """
    tables = read(path)
    table = next((t for t in tables if t["size"] == size and t["machine"] == machine), None)
    if table is None:
        table = {"size": size, "machine": dict(machine), "rows": []}
        tables.append(table)
    table["roofs"] = dict(roofs)
    kept = {(row["id"], row["device"]): row for row in [*table["rows"], *rows]}
    table["rows"] = list(kept.values())
    text = json.dumps({"tables": tables}, indent=1, allow_nan=False)
    atomic_write(path, text + "\n")
    return table


def read(path: Path) -> list[dict[str, Any]]:
    """Return the tables of a result file: [] where it is missing or has another script's shape."""
    if not path.is_file():
        return []
    return list(json.loads(path.read_text(encoding="utf-8")).get("tables", []))


def print_rows(name: str, table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of a table as the page will hold them, and the machine's roofs."""
    lines = [f"\n{name}: {_place(table)}", "", *_table(rows), *_notes(rows)]
    print("\n".join(lines), flush=True)


def write_readme(results: Path) -> Path:
    """Write the page of all results and return its path: beside this file, or in their own folder.

    The order is that of the scripts' names.
    """
    own = results.resolve() == (HERE / "results").resolve()
    path = (HERE if own else results) / "README.md"
    parts = [_INTRO.format(low=AA[0], high=AA[1], load=LOAD)]
    shared = {file.stem: read(file) for file in sorted(results.glob("*.json"))}
    for name, tables in shared.items():
        if tables:
            parts.append(_section(name, tables))
    parts.append(_others({name for name, tables in shared.items() if tables}))
    atomic_write(path, "\n".join(parts).rstrip("\n") + "\n")
    return path


def title(name: str) -> str:
    """Return the first line of a script's docstring; of a page without a script its heading."""
    script, page = HERE / f"{name}.py", HERE / f"{name}.md"
    if script.is_file():
        doc = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
        return doc.splitlines()[0].rstrip(".") if doc else name
    return page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") if page.is_file() else name


def _section(name: str, tables: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"## `{name}.py`", "", f"{title(name)}.", ""]
    # full sizes come first; the small ones fold away beside them
    for table in sorted(tables, key=lambda t: (t["size"] != "full", str(t["machine"]))):
        body = [_place(table), "", *_table(table["rows"]), *_notes(table["rows"])]
        if table["size"] == "full":
            lines += [*body, ""]
        else:
            threads = table["machine"]["threads"]
            summary = f"<details><summary>Small sizes, {_threads(threads)}</summary>"
            lines += [summary, "", *body, "", "</details>", ""]
    return "\n".join(lines)


def _place(table: Mapping[str, Any]) -> str:
    where, roof = table["machine"], table["roofs"]
    return (
        f"{where['cpu']}, {where['cores']} cores, {_threads(where['threads'])}, "
        f"torch {where['torch']}; roofs: fp32 GEMM {roof['gemm_fp32_gflops']:.0f} GFLOP/s, "
        f"bf16 GEMM {roof['gemm_bf16_gflops']:.0f} GFLOP/s, memory {roof['memory_gbs']:.0f} GB/s."
    )


def _threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a Markdown table without the columns in which no row has anything."""
    cells = [_cells(row) for row in rows]
    shown = [i for i, name in enumerate(_COLUMNS) if name == "id" or any(c[i] for c in cells)]
    lines = ["| " + " | ".join(_COLUMNS[i] for i in shown) + " |", "|---" * len(shown) + "|"]
    return lines + ["| " + " | ".join(c[i] for i in shown) + " |" for c in cells]


def _cells(row: Mapping[str, Any]) -> list[str]:
    found = row["duel"] or {}
    paired = "ratio" in found
    peer, ours = (found["peer"], found["ours"]) if paired else (None, found)
    ratio = cpu = ""
    if paired:
        ratio = f"**{_number(found['ratio'])}**" + (" *noisy*" if noisy(found) else "")
        cpu = _number(found["cpu_ratio"])
    memory = row["memory_mb"] or (None, None)
    what = f"{row['what']} ({row['device']})" if row["device"] else row["what"]
    return [
        *(_escape(text) for text in (row["id"], what, row["peer"] or "", row["agreement"])),
        *(_ms(peer), _ms(ours), ratio, cpu, "; ".join(_goals(row))),
        "" if row["roof"] is None else f"{100 * row['roof']:.0f} %",
        *("" if value is None else _number(value) for value in memory),
    ]


def _goals(row: Mapping[str, Any]) -> list[str]:
    """Return every goal with its verdict; a ratio that was not measured is a miss too."""
    goals = []
    found = row["duel"] or {}
    if row["goal"] is not None:
        met = found.get("ratio", 0.0) >= row["goal"]
        doubt = " *noisy*" if "ratio" in found and noisy(found) else ""
        goals.append(f"{_number(row['goal'])}x: {_verdict(met)}{doubt}")
    for side, limits in (("at most", row["at_most"]), ("at least", row["at_least"])):
        for name, (value, limit) in limits.items():
            met = value <= limit if side == "at most" else value >= limit
            text = f"{name} {_number(value)}, {side} {_number(limit)}"
            goals.append(f"{_escape(text)}: {_verdict(met)}")
    return goals


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        found = [f"{name} {_value(value)}" for name, value in row["figures"].items()]
        if duel := row["duel"] if row["duel"] and "ratio" in row["duel"] else None:
            found.append(f"peer against itself {duel['aa']:.2f}, load of others {duel['load']:.2f}")
        note = f"{row['note'].rstrip('.')}. " if row["note"] else ""
        stamp = f"{row['date'][:10]}, {row['git'] or 'no commit'}"
        lines.append(f"- {row['id']}: {note}{'; '.join([*found, stamp])}.")
    return ["", *lines]


def _others(shared: set[str]) -> str:
    """Return links to the pages of the scripts whose results have a shape of their own."""
    pages = [p for p in sorted(HERE.glob("*.md")) if p.stem != "README" and p.stem not in shared]
    lines = [f"- [{page.stem}.md]({page.name}): {title(page.stem)}" for page in pages]
    return "\n".join(["## With pages of their own", "", *lines])


def _ms(times: Mapping[str, float] | None) -> str:
    if not times:
        return ""
    return f"{_number(times['median_ms'])} ({_number(times['iqr_ms'])})"


def _value(value: Any) -> str:
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """Return three digits that count, without an exponent where that stays short."""
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


if __name__ == "__main__":
    print(write_readme(results_folder()))
