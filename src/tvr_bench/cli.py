"""The command line: one short function per command."""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tvr_bench import config, describe, early, examples, model_folder, recipe
from tvr_bench.errors import UserError, nearest
from tvr_bench.files import check_file
from tvr_bench.paper_track import notes
from tvr_bench.transfer import settings_of_command
from tvr_bench.values import whole

_SETTINGS = "key=value settings; `tvr-bench config` shows every key with its default and unit"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one line that says what a user can put right.

    After Ctrl-C it is 130 and after SIGTERM 143, after one line that says how to go on.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # whatever a file is called, its name can be printed
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    words = _with_dashes(arguments)
    parser = build_parser()
    try:
        if words and not words[0].startswith("-"):
            _check_command(words[0])
        options, rest = parser.parse_known_args(words)
        options.arguments = arguments
        more = _settings_only(rest)
        if more and not hasattr(options, "settings"):
            raise UserError(f"'{more[0]}' is one argument too many; see `tvr-bench COMMAND --help`")
        options.settings = [*getattr(options, "settings", []), *more]
        command: Callable[[argparse.Namespace], int] = options.run
        return command(options)
    except UserError as error:
        print(f"tvr-bench: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        how = str(stop) or "the same command goes on from here"
        print(f"tvr-bench: interrupted; {how}", file=sys.stderr)
        return getattr(stop, "code", 130)
    except BrokenPipeError:  # `tvr-bench ... | head`
        return 0


_OPTION = re.compile(r"-h|--[a-z-]+")
_COMMANDS = (
    *("bench", "sweep", "data", "ocr", "score", "leaderboard", "export", "doctor", "config"),
    *("list", "pretrain"),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(prog="tvr-bench", description="Train, compare and trust video retrieval.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[..., int], help: str, shown: str = "") -> _Parser:
        sub: _Parser = commands.add_parser(
            name,
            help=help,
            description=help,
            epilog=shown,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    bench = add("bench", _bench, "train and test a model, and record the result", examples.BENCH)
    bench.add_argument("--config", type=Path, help="YAML with settings, such as a run's own")
    bench.add_argument(
        "--jobs", type=whole, metavar="N", help="of model=all: runs at the same time; same numbers"
    )
    sweep = add("sweep", _sweep, "run an ablation table, and draw it", examples.SWEEP)
    sweep.add_argument("--seeds", metavar="N", help="number of seeds, or a list such as 0,4,7")
    sweep.add_argument("--jobs", type=whole, default=1, metavar="N", help="runs at the same time")
    sweep.add_argument("--list", action="store_true", help="list the sweeps")
    sweep.add_argument("--dry-run", action="store_true", help="print the runs and their state")
    sweep.add_argument("--report", action="store_true", help="run nothing, only make the table")
    data = add("data", _data, "check a data set, or fill its caches", examples.DATA)
    data.add_argument("action", choices=("check", "prepare"), help="check or prepare")
    data.add_argument("--out", type=Path, help="check: folder of manifest and ledger")
    data.add_argument("--whole", action="store_true", help="check: decode every frame")
    data.add_argument("--shard", metavar="I/N", help="prepare: part I of N, counted from 0")
    data.add_argument("--config", type=Path, help="YAML with settings")
    ocr = add("ocr", _ocr, "print the scene text of any videos, window by window", examples.OCR)
    ocr.add_argument("videos", nargs="+", help="video files", metavar="VIDEO")
    ocr.set_defaults(settings=[])
    ocr.add_argument("--engine", help="rapidocr or easyocr")
    ocr.add_argument("--json", action="store_true", help="print JSON instead of tables")
    score = add("score", _score, "score a similarity matrix, both directions", examples.SCORE)
    score.add_argument(
        "sims", type=Path, help="file of NumPy or PyTorch, texts x videos", metavar="SIMS.npy"
    )
    score.add_argument("--gold", type=Path, help="file of the right answers")
    score.add_argument("--json", action="store_true", help="print JSON instead of a table")
    board = add(
        "leaderboard", _leaderboard, "write the leaderboard from all records", examples.LEADERBOARD
    )
    export = add("export", _export, "publish the model of a finished run", examples.EXPORT)
    export.add_argument("run_dir", type=Path, help="folder of a finished run", metavar="RUN")
    export.add_argument("folder", type=Path, help="new folder", metavar="FOLDER")
    export.add_argument("--license", metavar="ID", help="licence of the weights, for the card")
    pretrain = add(
        "pretrain", _pretrain, "pretrain the tiny towers on drawn stills", examples.PRETRAIN
    )
    pretrain.add_argument(
        "--to", type=Path, default=Path("towers"), metavar="FOLDER", help="new folder (towers)"
    )
    doctor = add("doctor", _doctor, "say what works here, and what is missing", examples.DOCTOR)
    doctor.add_argument("--json", action="store_true", help="print JSON instead of tables")
    show = add(
        "config", _config, "print every key with its value and what it means", examples.CONFIG
    )
    show.add_argument("--config", type=Path, help="YAML with settings")
    add("list", _list, "list the models and data sets", examples.LIST)
    for sub in (bench, sweep, data, board, pretrain, doctor, show):
        sub.add_argument("settings", nargs="*", default=[], help=_SETTINGS, metavar="key=value")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; see `{self.prog} --help`")


def _check_command(name: str) -> None:
    if name not in _COMMANDS:
        known = ", ".join(_COMMANDS)
        raise UserError(f"there is no command '{name}'.{nearest(name, _COMMANDS)} Known: {known}")


def _with_dashes(words: Sequence[str]) -> list[str]:
    """Return the words with `./-clip.mp4` for the file `-clip.mp4`, which is no option.

    After `--` no word is an option.
    """
    end = words.index("--") if "--" in words else len(words)
    found = [
        f"./{word}" if word[:1] == "-" and not _OPTION.fullmatch(word) and _there(word) else word
        for word in words[:end]
    ]
    return [*found, *(f"./{word}" if word[:1] == "-" else word for word in words[end + 1 :])]


def _there(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # longer than a name can be, or none at all
        return False


def _settings_only(rest: Sequence[str]) -> list[str]:
    for word in rest:
        if word.startswith("-"):
            raise UserError(f"unknown option '{word}'; see `tvr-bench COMMAND --help`")
    return list(rest)


def _bench(options: argparse.Namespace) -> int:
    if _names_all(options.settings):
        from tvr_bench.launch.all_models import bench_all

        _check_jobs(options.jobs)
        return bench_all(options.settings, options.config, jobs=options.jobs)
    if options.jobs is not None:
        raise UserError("--jobs is of model=all, which has several runs; leave it out")
    cfg = settings_of_command(options.settings, options.config)
    early.check(cfg)
    early.announce(cfg)
    from tvr_bench.bench import bench

    bench(cfg, command=shlex.join(["tvr-bench", *options.arguments]))
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from tvr_bench.launch import sweep

    if options.list:
        sweep.print_sweeps()
        return 0
    names = [word for word in options.settings if "=" not in word]
    if len(names) != 1:
        raise UserError("give one sweep, such as cret/gees; `tvr-bench sweep --list` shows all")
    seeds = [s for s in options.settings if s.startswith("seeds=")]
    settings = [s for s in options.settings if s not in (*names, *seeds)]
    numbers = sweep.seeds_of(options.seeds or (seeds or ["seeds=3"])[-1].removeprefix("seeds="))
    _check_jobs(options.jobs)
    if options.dry_run:
        sweep.print_plan(sweep.plan(names[0], settings, numbers))
        return 0
    if options.report:
        sweep.report(sweep.plan(names[0], settings, numbers))
        return 0
    return sweep.run_sweep(names[0], settings, seeds=numbers, jobs=options.jobs)


def _names_all(settings: Sequence[str]) -> bool:
    """Return whether all models are asked for."""
    models = [s for s in settings if s.startswith(("model=", "model.name="))]
    return bool(models) and models[-1].endswith("=all")


def _check_jobs(jobs: int | None) -> None:
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs} is impossible; it is 1 or more")


def _data(options: argparse.Namespace) -> int:
    words = [[*options.settings]]
    if options.action == "prepare" and _names_all(options.settings):
        words = [[*options.settings, f"model={name}"] for name in config.names("model")]
    each = [settings_of_command(one, options.config) for one in words]
    for cfg in each:
        early.check_data(cfg)
    if options.action == "check":
        from tvr_bench.datamodules.check_view import check_data

        return check_data(each[0], options.out, whole=options.whole)
    from tvr_bench.prepare import part_of, prepare_data

    for cfg in each:
        prepare_data(cfg, part_of(options.shard))
    return 0


def _ocr(options: argparse.Namespace) -> int:
    words = [*options.videos, *options.settings]  # argparse parts them at an option
    videos = [word for word in words if not _is_setting(word)]
    settings = [word for word in words if _is_setting(word)]
    if not videos:
        raise UserError("give at least one video file, such as `tvr-bench ocr clip.mp4`")
    if options.engine:
        settings.append(f"ocr.engine={options.engine}")
    cfg = config.load(["model=tcard", "data=csv", *settings])
    if not any(map(_there, videos)):
        check_file(Path(videos[0]), "the path of a video")
    from tvr_bench.media.windows_view import show_windows
    from tvr_bench.settings import window_spec

    return show_windows([Path(v) for v in videos], window_spec(cfg), as_json=options.json)


def _is_setting(word: str) -> bool:
    return "=" in word and not _there(word)


def _score(options: argparse.Namespace) -> int:
    from tvr_bench.evaluation.array_file import check_array_file

    for path in (options.sims, options.gold):
        if path is not None:
            check_array_file(path)
    from tvr_bench.evaluation.score_file import print_score, score_file

    score = score_file(options.sims, options.gold)
    if options.json:
        print(json.dumps(score, indent=2))
    else:
        print_score(score)
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    cfg = config.load(options.settings)
    from tvr_bench.leaderboard.table import build_leaderboard

    paths = build_leaderboard(Path(cfg.run.root), Path(cfg.run.leaderboard))
    for path in (paths.html, paths.markdown, paths.csv, paths.runs_csv):
        print(path)
    return 0


def _export(options: argparse.Namespace) -> int:
    if not options.run_dir.is_dir():
        raise UserError(f"{options.run_dir} is no finished run: there is no such folder")
    model_folder.find(options.run_dir)
    from tvr_bench.export import export_model

    export_model(options.run_dir, options.folder, options.license)
    print(options.folder)
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    cfg = recipe.settings(options.settings)
    recipe.check_new(options.to)
    early.check(cfg)
    early.announce(cfg)
    from tvr_bench.pretrain import pretrain

    if pretrain(cfg, options.to, command=shlex.join(["tvr-bench", *options.arguments])):
        print(options.to)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from tvr_bench.doctor import doctor

    return doctor(options.settings, as_json=options.json)


def _config(options: argparse.Namespace) -> int:
    cfg = config.load(options.settings, options.config)
    for note in notes(cfg):
        print(f"# {note}")
    print(describe.commented(cfg), end="")
    return 0


def _list(options: argparse.Namespace) -> int:
    for kind, heading in (("model", "models:"), ("data", "data sets:")):
        print(heading)
        for name in config.names(kind):
            print(f"  {name:<13}{describe.title(kind, name)}")
    return 0


def _version() -> str:
    from importlib.metadata import version

    return f"tvr-bench {version('tvr-bench')}"
