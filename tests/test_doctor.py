"""`tvr-bench doctor`: what is broken is named with what to do, and never a traceback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from tvr_bench import config, doctor, found, installed, probe
from tvr_bench.cli import main
from tvr_bench.models.layers import hub

FACTS: dict[str, dict[str, Any]] = {
    "av": {"version": "18.1.0", "ffmpeg": "8.1.2"},
    "onnxruntime": {"version": "1.31.1"},
    "torch": {
        "version": "2.15.0",
        "built_for": "",
        "gpus": [],
        "gpu_bytes": [],
        "mps": False,
        "bf16": False,
        "threads": 1,
    },
    "torchvision": {"version": "0.29.2", "nms": True},
}
NMS = "RuntimeError: operator torchvision::nms does not exist"
NAMES = (
    *("python", "torch", "torchvision", "pytorch-lightning", "transformers", "timm", "easyocr"),
    *("rapidocr", "av", "onnxruntime", "accelerator", "cores", "memory", "paths.cache", "run.root"),
    *("CLIP ViT-B/32", "CLIP ViT-B/16", "CaiT-S/24", "BERT-base", "signvid"),
    *("tcard", "cret", "bicnet", "eercf", "meanpool"),
)


@pytest.fixture(autouse=True)
def facts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What the probe finds, for a test to change; no cache, no network, an empty home."""
    mine = {stage: dict(found) for stage, found in FACTS.items()}

    class Fake:
        def __init__(self, settings: Sequence[str], *, data: bool) -> None:
            self.data = data

        def facts(self) -> dict[str, dict[str, Any]]:
            return {key: value for key, value in mine.items() if key != "data" or self.data}

    def refuse(*_: Any) -> None:
        raise AssertionError("the network is asked")

    monkeypatch.setattr(doctor, "Probe", Fake)
    monkeypatch.setattr(installed, "_fits", lambda torch: True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(found, "_in_cache", lambda repository, file: None)
    monkeypatch.setenv("EASYOCR_MODULE_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    return mine


def _examine(*settings: str) -> dict[str, found.Finding]:
    findings = doctor.examine(config.load(settings), settings)
    assert all("\n" not in f.name + f.text + f.todo for f in findings)
    assert all(f.todo for f in findings if f.blocks), "what blocks says what to do"
    return {finding.name: finding for finding in reversed(findings)}  # versions before weights


def _run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["doctor", *words])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, printed.out


def test_a_whole_installation_works(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = _run(capsys=capsys)
    assert code == 0 and "`tvr-bench bench` works here" in text
    for name in NAMES:
        assert name in text, name
    assert "\x1b" not in text, "plain where it is piped"
    assert "FFmpeg 8.1.2" in text and f"torch              {FACTS['torch']['version']}" in text


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = _run("--json", capsys=capsys)
    told = json.loads(text)
    assert code == 0 and told["ok"] is True
    names = {finding["name"] for finding in told["findings"]}
    assert names >= set(NAMES)
    assert {f["state"] for f in told["findings"]} <= {"ok", "note", "missing", "broken"}


# ---- versions


def test_a_torchvision_of_another_torch_is_recognised(
    facts: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    facts["torch"]["version"] = "2.15.0+cpu"
    facts["torchvision"] = {"error": NMS}
    code, text = _run(capsys=capsys)
    assert code == 1 and "in its way: torchvision" in text
    assert "made for another torch than 2.15.0+cpu" in text and "one index" in text


def test_a_torchvision_that_names_another_torch_is_recognised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    wanted = metadata.requires
    monkeypatch.setattr(
        metadata, "requires", lambda n: ["torch (==2.9.0)"] if n == "torchvision" else wanted(n)
    )
    assert installed._fits("2.9.0+cpu") and not installed._fits("2.10.0+cu130")
    finding = installed._imported("torchvision", "0.24.0", FACTS["torchvision"], FACTS)
    assert finding.blocks and "another torch than 2.15.0" in finding.text


@pytest.mark.parametrize("stage", ["av", "onnxruntime", "torch", "torchvision"])
@pytest.mark.parametrize(
    "error", ["OSError: libcudart.so.13: cannot open", "Python ended with -11"]
)
def test_a_library_that_cannot_be_imported_is_named(
    stage: str, error: str, facts: dict[str, dict[str, Any]]
) -> None:
    facts[stage] = {"error": error}
    finding = _examine()[stage]
    assert finding.blocks and error in finding.text and "reinstall" in finding.todo


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_a_malicious_upload_is_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, "pytorch-lightning", version)
    finding = _examine()["pytorch-lightning"]
    assert finding.blocks and "malicious" in finding.text and "change every key" in finding.todo


def _pretend(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    real = metadata.version

    def told(asked: str) -> str:
        if asked != name:
            return real(asked)
        if version is None:
            raise metadata.PackageNotFoundError(asked)
        return version

    monkeypatch.setattr(metadata, "version", told)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("torch", "2.9.1"),
        ("pytorch-lightning", "2.6.1"),
        ("transformers", "4.57.0"),
        ("av", "19.0.0"),
        ("av", "17.0.1"),
        ("h5py", "3.1.0"),
    ],
)
def test_a_version_that_does_not_fit_is_named(
    name: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(monkeypatch, name, version)
    finding = _examine()[name]
    assert finding.blocks and version in finding.text and f'pip install "{name}' in finding.todo


@pytest.mark.parametrize("name", ["torch", "rapidocr", "easyocr", "timm", "pandas"])
def test_a_package_that_is_not_installed_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(monkeypatch, name, None)
    finding = _examine()[name]
    assert finding.blocks and finding.text == "not installed"


# ---- the machine


def test_gpus_are_listed(facts: dict[str, dict[str, Any]]) -> None:
    facts["torch"] |= {"gpus": ["H200"], "gpu_bytes": [141e9], "bf16": True, "built_for": "13.2"}
    assert _examine()["accelerator"].text == "CUDA 13.2: H200 (141 GB), with bf16"
    few = _examine("trainer.accelerator=gpu", "trainer.devices=8")["accelerator"]
    assert few.blocks and "trainer.devices=1" in few.todo


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"built_for": "13.2"}, "built for CUDA 13.2 and sees no GPU"),
        ({"built_for": ""}, "CPU-only torch"),
        ({"mps": True}, "MPS"),
    ],
)
def test_without_a_gpu_it_says_why(
    change: dict[str, Any], said: str, facts: dict[str, dict[str, Any]]
) -> None:
    facts["torch"] |= change
    finding = _examine()["accelerator"]
    assert said in finding.text and not finding.blocks
    assert _examine("trainer.accelerator=gpu")["accelerator"].blocks is not facts["torch"]["mps"]


def test_places_that_cannot_be_written_or_are_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    findings = _examine(f"paths.cache={tmp_path / 'file' / 'cache'}", "run.root=deep/er/runs")
    assert findings["paths.cache"].blocks and "cannot be written" in findings["paths.cache"].text
    assert findings["run.root"].state == "ok"
    usage = type(shutil.disk_usage(tmp_path))(10**9, 10**9, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    finding = _examine()["run.root"]
    assert finding.state == "note" and "0.0 GB free" in finding.text and not finding.blocks


# ---- weights


def _folder(path: Path, *files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file == hub.SAFE:
            save_file({}, path / file)
        else:
            (path / file).write_text("{}")
    return path


def _zip(path: Path) -> Path:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"")
    return path


@pytest.mark.parametrize(
    ("make", "state", "said"),
    [
        (lambda p: _folder(p / "w", "config.json", "tokenizer.json", hub.SAFE), "ok", "w"),
        (
            lambda p: _zip(_folder(p / "w", "config.json", "tokenizer.json") / hub.PICKLE).parent,
            "ok",
            "",
        ),
        (lambda p: _folder(p / "w", "config.json", hub.SAFE), "missing", "no tokenizer.json"),
        (lambda p: _folder(p / "w", "config.json", "tokenizer.json"), "missing", "no model.safe"),
        (lambda p: p / "nowhere", "missing", "no config.json, tokenizer.json, model.safetensors"),
        (lambda p: p / "nothing.pt", "missing", "there is no"),
        (lambda p: _zip(_folder(p, "tokenizer.json") / "own.pt"), "ok", "own.pt"),
        (lambda p: _zip(_folder(p / "w") / "own.pt"), "note", "no tokenizer beside"),
        (lambda p: _folder(p, "own.pt") / "own.pt", "broken", "damaged"),
    ],
)
def test_clip_is_found_where_the_settings_say(
    make: Callable[[Path], Path], state: str, said: str, tmp_path: Path
) -> None:
    place = make(tmp_path / "a")
    settings = ("backbone=clip_vit_b32", "video.size=[224,224]", f"backbone.weights={place}")
    findings = _examine(*settings)
    finding = findings["CLIP ViT-B/32"]
    assert (finding.state, finding.blocks) == (state, state in ("missing", "broken"))
    assert said in finding.text
    assert not findings["CLIP ViT-B/16"].blocks, "another run's"


def test_damaged_safetensors_are_seen(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "w", "config.json", "tokenizer.json", hub.SAFE)
    for content in (b"", b"\x00" * 50, b"\xff" * 7 + b"\x00{", b"version https://git-lfs.github"):
        (folder / hub.SAFE).write_bytes(content)
        finding = _examine("backbone=clip_vit_b32", f"backbone.weights={folder}")["CLIP ViT-B/32"]
        assert finding.blocks and "damaged" in finding.text


def test_the_hubs_cache_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        (repository, file): _folder(tmp_path / repository, file) / file
        for repository in (*hub.CLIP.values(), *hub.CAIT_BERT.values())
        for file in ("config.json", "tokenizer.json", hub.SAFE)
    }
    monkeypatch.setattr(found, "_in_cache", lambda repository, file: files.get((repository, file)))
    findings = _examine("model=cret", "backbone=paper")
    for name in ("CLIP ViT-B/32", "CLIP ViT-B/16", "CaiT-S/24", "BERT-base"):
        assert findings[name].state == "ok", findings[name]
    assert "and the paper's (cait_bert)" in findings["cret"].text
    del files[hub.CLIP["clip_vit_b16"], hub.SAFE]
    assert _examine()["CLIP ViT-B/16"].state == "note"


def test_what_the_hub_has_is_fetched_unless_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = ("model=cret", "track=paper")
    note = _examine(*settings)["BERT-base"]
    assert note.state == "note" and not note.blocks
    assert hub.CAIT_BERT["bert-base-uncased"] in note.todo and "FOLDER/bert" in note.todo
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _examine(*settings)["BERT-base"].blocks
    assert not _examine()["BERT-base"].blocks, "the default run needs none"


def test_the_folders_of_cait_and_bert(tmp_path: Path) -> None:
    image, text = hub.CAIT_BERT
    _folder(tmp_path / image, "config.json", hub.SAFE)
    _folder(tmp_path / text, "config.json", hub.SAFE)
    findings = _examine("model=cret", "backbone=paper", f"backbone.weights={tmp_path}")
    assert findings["CaiT-S/24"].state == "ok"
    assert findings["BERT-base"].blocks and "tokenizer.json" in findings["BERT-base"].text


def test_the_engine_that_reads_is_needed_and_the_other_is_not(tmp_path: Path) -> None:
    findings = doctor.examine(config.load([]), [])
    engines = {f.name: f for f in findings if f.section == "weights"}
    assert engines["rapidocr"].state == "ok" and engines["easyocr"].state == "missing"
    assert not engines["easyocr"].blocks and "craft_mlt_25k.pth" in engines["easyocr"].text
    for settings in (["ocr.engine=easyocr"], [f"ocr.weights={tmp_path}"]):
        asked = doctor.examine(config.load(settings), settings)
        name = "easyocr" if "easyocr" in settings[0] else "rapidocr"
        (engine,) = [f for f in asked if f.section == "weights" and f.name == name]
        assert engine.blocks
        off = [*settings, "ocr.enabled=false"]
        assert not any(f.blocks for f in doctor.examine(config.load(off), off))


# ---- data sets and models


def test_a_data_set_that_was_asked_for(facts: dict[str, dict[str, Any]]) -> None:
    one = {"clips": 9000, "captions": 180000, "missing": 0, "first_missing": ""}
    facts["data"] = {"splits": {"train": one, "test": {**one, "missing": 2, "first_missing": "v7"}}}
    settings = ("data=msrvtt", "data.root=/data")
    findings = _examine(*settings)
    assert findings["msrvtt train"].text == "9,000 videos, 180,000 captions"
    assert findings["msrvtt test"].blocks and "such as v7" in findings["msrvtt test"].text
    assert not _examine(*settings, "data.allow_missing=true")["msrvtt test"].blocks
    facts["data"] = {"error": "data=msrvtt needs train_9k.csv"}
    broken = _examine(*settings)["msrvtt"]
    assert broken.blocks and "needs train_9k.csv" in broken.text
    rest = next(name for name in _examine() if "msvd" in name)
    assert "signvid" not in rest and "csv" in rest


def test_features_that_others_extracted_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "r.h5").touch()
    settings = ("model=bicnet", "backbone=paper", f"features.region_file={tmp_path / 'r.h5'}")
    findings = _examine(*settings, "features.text_file=nothing.h5")
    assert findings["features.region_file"].state == "ok"
    assert findings["features.global_file"].text == "not named"
    assert findings["features.text_file"].blocks


def test_wrong_settings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "modle=tcard"]) == 2
    assert "unknown key 'modle'" in capsys.readouterr().err
    assert main(["doctor", "data=msrvt"]) == 2
    assert "Did you mean 'msrvtt'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (doctor, "find_towers"),
        (doctor, "find_engine"),
        (doctor, "cores"),
        (shutil, "disk_usage"),
        (metadata, "requires"),
    ],
)
def test_a_check_that_fails_is_a_finding(
    module: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError("nobody may look\nhere")

    monkeypatch.setattr(module, name, fail)
    code, text = _run(capsys=capsys)
    assert code == 1 and "PermissionError: nobody may look here" in text


def test_names_from_files_do_not_reach_the_terminal(
    facts: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    facts["data"] = {"error": "[bold]x[/bold] \x1b[31m\x07 [link=http://e.org]y[/link]"}
    _, text = _run("data=msrvtt", capsys=capsys)
    assert "[bold]x[/bold]" in text and "[link=http://e.org]y" in text
    assert "\x1b" not in text and "\x07" not in text


# ---- the process that imports


def _fake(folder: Path, name: str, code: str) -> dict[str, str]:
    """Return an environment in which `import name` runs `code`."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os._exit(3)", "Python ended with code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "Python ended with code -11"),
        ("import time; time.sleep(60)", "took more than"),
    ],
)
def test_a_library_that_ends_or_hangs_the_process_is_named(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", _fake(tmp_path, "av", code))
    facts = probe.Probe([], data=False).facts(timeout=2)
    assert said in facts["av"]["error"]
    assert {facts[s]["error"] for s in probe.STAGES[1:-1]} == {"not looked at, after av"}


def test_errors_and_noise_of_an_import_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = _fake(tmp_path, "av", "print('{}', 'noise'); raise RuntimeError('two\\nlines')")
    monkeypatch.setattr(os, "environ", environment)
    _fake(tmp_path, "torch", "raise OSError('libcudart.so: cannot open')")
    _fake(tmp_path, "torchvision", f"raise RuntimeError({NMS.split(': ')[1]!r})")
    facts = probe.Probe([], data=False).facts()
    assert facts["av"] == {"error": "RuntimeError: two"}
    assert facts["onnxruntime"]["version"] == metadata.version("onnxruntime")
    assert facts["torch"] == {"error": "OSError: libcudart.so: cannot open"}
    assert "error" in facts["torchvision"]


@pytest.mark.slow
def test_the_command_with_a_torchvision_of_another_torch(tmp_path: Path) -> None:
    code = f"raise RuntimeError({NMS.split(': ')[1]!r})"
    done = subprocess.run(
        [sys.executable, "-m", "tvr_bench", "doctor", "--json"],
        env=_fake(tmp_path, "torchvision", code),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1 and done.stderr == ""
    told = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert "made for another torch" in told["torchvision"]["text"]
    assert told["torch"]["text"].startswith("2.")


@pytest.mark.slow
def test_the_command_looks_at_a_data_set(tmp_path: Path, tiny_video: Callable[..., Path]) -> None:
    videos = [tiny_video(f"{i}.mp4") for i in range(20)]
    rows = [f"{video.name},caption {i}" for i, video in enumerate(videos)]
    (tmp_path / "my.csv").write_text("\n".join(["video,caption", *rows]))
    words = ["doctor", "--json", "data=csv", f"data.file={tmp_path / 'my.csv'}"]
    command = [sys.executable, "-m", "tvr_bench", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    told = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 0, done.stdout
    assert told["csv train"]["text"] == "16 videos, 16 captions"
    videos[0].unlink()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    told = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert any(f["state"] == "missing" and "0" in f["text"] for n, f in told.items() if "csv " in n)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = hashlib.sha256(repr(sorted(tmp_path.rglob("*"))).encode()).hexdigest()
    _examine("paths.cache=new/cache")
    after = hashlib.sha256(repr(sorted(tmp_path.rglob("*"))).encode()).hexdigest()
    assert before == after
