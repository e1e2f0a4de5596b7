"""The command line: help with examples, one line for what is wrong, exit codes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

import tvr_bench
from tvr_bench import cli, config, describe, text_yaml
from tvr_bench.cli import main

COMMANDS = [
    *("bench", "sweep", "data", "ocr", "score", "leaderboard", "export", "doctor", "config"),
    *("list", "pretrain"),
]


def _help(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def _fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a wrong command prints."""
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tvr-bench: ") and printed.err.count("\n") == 1
    return printed.err


def _examples(text: str) -> list[list[str]]:
    lines = text.split("examples:\n")[1].splitlines()
    return [shlex.split(line.strip().split("  ")[0]) for line in lines if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_of_the_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = _examples(_help(command, capsys=capsys))
    assert examples
    assert all(words[:2] == ["tvr-bench", command] for words in examples)


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = _help(capsys=capsys)
    assert all(command in text for command in COMMANDS)
    assert set(cli._COMMANDS) == set(COMMANDS)


@pytest.mark.parametrize("command", ["bench", "config", "leaderboard"])
def test_the_settings_in_the_examples_are_valid(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = _examples(_help(command, capsys=capsys))
    given = [[w for w in words[2:] if "=" in w and w != "model=all"] for words in examples]
    assert any(given)
    for words in given:
        cfg: Any = config.load(words)
        for word in words:
            key = word.partition("=")[0]
            wanted = OmegaConf.select(OmegaConf.from_dotlist([word]), key)
            assert OmegaConf.select(cfg, key if "." in key else f"{key}.name") == wanted


def test_the_installed_command_answers() -> None:
    program = Path(sys.executable).with_name("tvr-bench")
    done = subprocess.run([program, "list"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "tcard" in done.stdout and "signvid" in done.stdout
    wrong = subprocess.run([program, "bnch"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "'bench'" in wrong.stderr and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bnch"], ["'bnch'", "'bench'", "leaderboard"]),
        (["zzz"], ["'zzz'", "Known: bench"]),
        ([], ["COMMAND", "--help"]),
        (["-x"], ["--help"]),
        (["bench", "--confg", "x"], ["--confg"]),
        (["bench", "--config"], ["--config", "one argument"]),
        (["bench", "model"], ["'model'", "key=value"]),
        (["score"], ["SIMS.npy"]),
        (["score", "a.npy", "b.npy"], ["'b.npy'", "too many"]),
        (["list", "everything"], ["'everything'", "too many"]),
        (["ocr"], ["VIDEO"]),
        (["ocr", "ocr.windows=3"], ["at least one video"]),
        (["ocr", "clip.mp4", "--engine", "tesseract"], ["ocr.engine", "rapidocr"]),
        (["score", "nothing.npy"], ["nothing.npy"]),
        (["leaderboard", "run.root=no/such/folder"], ["no/such/folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_is_one_line(
    words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = _fails(words, capsys)
    for text in expected:
        assert text in printed


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("run.root={file}/x", ["cannot make the folder", "run.root"]),
        ("paths.cache={file}/x", ["cannot make the folder", "paths.cache"]),
        ("run.name=../x", ["run.name='../x'"]),
        ("run.name=my run", ["run.name='my run'"]),
        ("data=csv", ["data.file=VIDEOS.csv"]),
        ("data=csv data.file={file}.csv", ["does not exist"]),
    ],
)
def test_a_bench_that_cannot_begin_is_one_line(
    setting: str,
    expected: list[str],
    tmp_path: Path,
    tiny_settings: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.touch()
    words = [s for s in tiny_settings if not s.startswith("data.")]
    wrong = setting.format(file=file)
    printed = _fails(
        ["bench", *words, *(wrong.split(" ") if "=csv " in wrong else [wrong])], capsys
    )
    for text in expected:
        assert text in printed


def test_config_prints_yaml_that_loads_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "model=meanpool", "data=csv", "optim.lr=3e-4"]) == 0
    text = capsys.readouterr().out
    shown = yaml.safe_load(text)
    assert (shown["model"]["name"], shown["data"]["name"]) == ("meanpool", "csv")
    assert shown["optim"]["lr"] == 3e-4
    file = tmp_path / "all.yaml"
    file.write_text(text)
    assert main(["config", "--config", str(file)]) == 0
    assert capsys.readouterr().out == text
    assert main(["config", "optim.lr=1", "--config", str(file), "seed=4"]) == 0
    changed = yaml.safe_load(capsys.readouterr().out)
    assert (changed["optim"]["lr"], changed["seed"]) == (1.0, 4)


def test_list_names_models_and_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    models, datasets = printed.removeprefix("models:\n").split("data sets:\n")
    for kind, part in (("model", models), ("data", datasets)):
        lines = [line.split(maxsplit=1) for line in part.splitlines()]
        assert [name for name, _ in lines] == config.names(kind)
        assert all(len(title) > 10 for _, title in lines)
    assert "T-CARD (published as TCD, AAAI 2026)" in models
    assert "MSR-VTT: 10,000 clips with 20 captions each" in datasets


@pytest.mark.parametrize("data", config.names("data"))
@pytest.mark.parametrize("model", config.names("model"))
def test_config_shows_what_keys_mean(model: str, data: str) -> None:
    cfg: Any = config.load([f"model={model}", f"data={data}"])
    text = describe.commented(cfg)
    assert text_yaml.parse(text) == text_yaml.parse(config.to_yaml(cfg))
    assert "peak rate of the heads" in text and "seconds that decoding a clip" in text
    for kind, name in (("model", model), ("data", data)):
        own = describe.comments(config.path_of(kind, name))
        for key in (one for one in own if one.startswith(f"{kind}.")):
            assert own[key][0] in text


def test_the_comment_of_a_key_is_all_of_it_and_none_of_the_next(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "a: '# no'\nb: [1, 2]  # one\n           # two\n# of c\nc:  # of the section\n"
        "  d: null  # of d\n  e: x # of e\n"
    )
    assert describe.comments(file) == {
        "b": ["one", "two"],
        "c": ["of the section"],
        "c.d": ["of d"],
        "c.e": ["of e"],
    }


def test_score_scores_a_matrix_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sims, gold = tmp_path / "sims.npy", tmp_path / "gold.npy"
    np.save(sims, np.array([[3.0, 1, 0], [2, 1, 0], [0, 0, 5]]))
    assert main(["score", str(sims), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["t2v"]["R@1"] == pytest.approx(200 / 3)
    assert score["v2t"]["R@1"] == pytest.approx(100 * (1 + 0.5 + 1) / 3)
    np.save(gold, np.array([0, 0, 2]))
    assert main(["score", str(sims), "--gold", str(gold), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["t2v"]["R@1"] == 100
    assert main(["score", str(sims)]) == 0
    assert "R@1" in capsys.readouterr().out


def test_ocr_hands_its_videos_and_settings_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tvr_bench.media import windows_view

    seen = []
    monkeypatch.setattr(
        windows_view,
        "show_windows",
        lambda paths, spec, as_json: seen.append((paths, spec, as_json)),
    )
    odd = tmp_path / "a=b.mp4"
    odd.touch()
    main(["ocr", "1.mp4", "ocr.windows=3", "--engine", "easyocr", "--json", "2.mp4", str(odd)])
    ((paths, spec, as_json),) = seen
    assert paths == [Path("1.mp4"), Path("2.mp4"), odd]
    assert (spec.windows, spec.engine, as_json) == (3, "easyocr", True)


def test_ocr_opens_the_engine_with_all_of_its_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tvr_bench.media import windows_view

    seen = {}
    monkeypatch.setattr(windows_view, "create_engine", lambda name, **how: seen.update(how))
    words = ["ocr.half=true", "ocr.side=640", "ocr.weights=/w", "--engine", "easyocr"]
    broken = tmp_path / "broken.mp4"
    broken.touch()
    assert main(["ocr", str(broken), *words]) == 2
    assert (seen["half"], seen["side"], seen["weights"]) == (True, 640, "/w")
    capsys.readouterr()


@pytest.mark.parametrize("words", [["-clip.mp4"], ["--", "-clip.mp4"], ["-h.mp4"]])
def test_a_file_may_begin_with_a_dash(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tvr_bench.media import windows_view

    monkeypatch.chdir(tmp_path)
    (tmp_path / words[-1]).touch()
    seen: list[Path] = []
    monkeypatch.setattr(
        windows_view, "show_windows", lambda paths, spec, as_json: seen.extend(paths)
    )
    main(["ocr", "--json", *words])
    assert seen == [Path(words[-1])]


def test_a_file_with_a_dash_is_a_file_for_every_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-my.yaml").write_text("seed: 7\n")
    assert main(["config", "--config", "-my.yaml"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    np.save(tmp_path / "-sims.npy", np.eye(3))
    assert main(["score", "--json", "--", "-sims.npy"]) == 0
    assert '"R@1": 100.0' in capsys.readouterr().out
    assert "there is no file -none.npy" in _fails(["score", "--", "-none.npy"], capsys)
    assert "unknown option '-none.npy'" in _fails(["score", "a.npy", "-none.npy"], capsys)


def test_a_video_that_is_not_there_is_named(
    tmp_path: Path, tiny_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tiny_video("clip.mp4", seconds=0.4)
    assert main(["ocr", str(tmp_path / "nope.mp4"), str(clip)]) == 2
    printed = capsys.readouterr()
    assert f"there is no file {tmp_path / 'nope.mp4'}" in printed.err
    assert "clip.mp4" in printed.out


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"tvr-bench {tvr_bench.__version__}\n"
    assert tvr_bench.__version__.startswith("0.")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [(KeyboardInterrupt(), 130, "goes on from here"), (BrokenPipeError(), 0, "")],
)
def test_an_interrupted_command_says_so(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object) -> Callable[..., None]:
        raise error

    monkeypatch.setattr(cli, "_list", stop)
    assert main(["list"]) == code
    assert text in capsys.readouterr().err
