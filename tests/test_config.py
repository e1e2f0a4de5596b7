"""Configuration: layers, the schema, and one line for everything a person can get wrong."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from tvr_bench import config, early, synonyms
from tvr_bench.cli import main
from tvr_bench.errors import UserError

# settings | what the message must name: the key, and the nearest valid name or the allowed values
MISTAKES = {
    # a key that does not exist
    "optm.lr=1": ["optm.lr", "'optim.lr'"],
    "optim.lrr=1": ["optim.lrr", "'optim.lr'"],
    "trainer.wrokers=1": ["trainer.wrokers", "'trainer.workers'"],
    "sed=1": ["'sed'", "'seed'"],
    "lr=3": ["'lr'", "'optim.lr'"],
    "backbone.lr=3": ["backbone.lr", "'optim.lr'"],
    "model.taau=5": ["model.taau", "'model.tau'"],
    "data.presett=tiny": ["data.presett", "'data.preset'"],
    "optim.lr.x=1": ["optim.lr.x", "'optim.lr'"],
    "optim.betas.0=0.5": ["optim.betas.0", "'optim.betas'"],
    "optim..lr=3": ["optim..lr", "'optim.lr'"],
    "optim={lrr: 1}": ["optim.lrr", "'optim.lr'"],
    "rules.seed=x": ["rules.seed", "seed'"],
    "a.b.c.d=3": ["a.b.c.d", "tvr-bench config"],
    # a value of the wrong type
    "optim.lr=fast": ["optim.lr", "fast"],
    "optim.lr=null": ["optim.lr", "'null'", "a number"],
    "optim.lr=": ["optim.lr", "''", "a number"],
    "optim.lr=true": ["optim.lr", "'true'", "a number"],
    "optim.lr=[1,2]": ["optim.lr", "[1,2]"],
    "optim.lr=1_0": ["optim.lr", "'1_0'"],
    "optim.lr=12:30": ["optim.lr", "'12:30'"],
    "optim.lr=01": ["optim.lr", "'01'"],
    "optim.lr=3,4": ["optim.lr", "3,4"],
    "optim.betas=0.9": ["optim.betas", "0.9"],
    "optim.betas=[0.9]": ["optim.betas", "2 numbers"],
    "video.frames=1.5": ["video.frames", "1.5"],
    "video.frames=two": ["video.frames", "two"],
    "video.size=[1,2,3]": ["video.size", "2 whole numbers"],
    "video.size=[1": ["video.size", "2 whole numbers"],
    "ocr.enabled=maybe": ["ocr.enabled", "maybe"],
    "trainer.devices=two": ["trainer.devices", "two"],
    "seed=abc": ["seed", "abc"],
    "seed=1.5": ["seed", "1.5"],
    "seed=1.0": ["seed", "1.0"],
    "seed=010": ["seed", "'010'", "plain digits"],
    "seed=0x10": ["seed", "'0x10'"],
    "seed=1_000": ["seed", "'1_000'"],
    "seed=12:30": ["seed", "'12:30'"],
    "seed=\u0663": ["seed", "plain digits"],
    "model.tau=a": ["model.tau", "'a'"],
    "run.picture=maybe": ["run.picture", "maybe"],
    "data.train=many": ["data.train", "many", ">= 4"],
    "optim=3": ["'optim'", "section", "optim.name"],
    "video=null": ["'video'", "section", "video.frames"],
    # a value that makes no sense
    "optim.lr=-1": ["optim.lr", "> 0"],
    "optim.lr=0": ["optim.lr", "> 0"],
    "optim.lr=nan": ["optim.lr", "> 0"],
    "optim.lr=inf": ["optim.lr", "> 0"],
    "optim.warmup=2": ["optim.warmup", "0..1"],
    "optim.betas=[2,3]": ["optim.betas", "0..0.9"],
    "video.frames=0": ["video.frames", ">= 1"],
    "video.size=[0,224]": ["video.size", ">= 1"],
    "video.codec=rw": ["video.codec", "'raw'", "jpeg"],
    "text.words=1": ["text.words", ">= 3"],
    "ocr.engine=rapid": ["ocr.engine", "'rapidocr'", "easyocr"],
    "ocr.xi=0": ["ocr.xi", "> 0"],
    "ocr.min_score=1.5": ["ocr.min_score", "0..1"],
    "backbone.name=clip_vit_b31": ["backbone.name", "'clip_vit_b32'"],
    "trainer.devices=0": ["trainer.devices", ">= 1"],
    "trainer.batch_size=1": ["trainer.batch_size", ">= 2"],
    "trainer.precision=64": ["trainer.precision", "bf16"],
    "trainer.accelerator=tpu": ["trainer.accelerator", "gpu"],
    "trainer.steps=0": ["trainer.steps", ">= 1"],
    "eval.selection=best_test": ["eval.selection", "'best_val'"],
    "eval.every=1.7": ["eval.every", "whole from 1"],
    "eval.every=0": ["eval.every", "> 0"],
    "eval.block=[0,1]": ["eval.block", ">= 1"],
    "seed=-1": ["seed", "0.."],
    "seed=99999999999": ["seed", "0.."],
    "model.ctcd=cleu": ["model.ctcd", "'clue'"],
    "data.preset=tinny": ["data.preset", "'tiny'"],
    "data.test=3": ["data.test", ">= 4"],
    # a name that does not exist
    "model=tcrd": ["'tcrd'", "'tcard'", "meanpool"],
    "model.name=tcrd": ["'tcrd'", "'tcard'"],
    "model=": ["model.name"],
    "model=null": ["model 'null'"],
    "data=signvd": ["'signvd'", "'signvid'", "csv"],
    # not a setting at all
    "optim.lr": ["'optim.lr'", "key=value"],
    "=3": ["'=3'", "key=value"],
    "optim.lr=[": ["optim.lr", "'['"],
    "optim={": ["cannot read optim={"],
    "optim.betas[0]=1": ["optim.betas[0]=1", "key=value"],
    "optim.lr=${nothing}": ["optim.lr", "nothing"],
    "run.root=${oc.env:NO_SUCH_VARIABLE_HERE}": ["run.root", "NO_SUCH_VARIABLE_HERE"],
    "seed=???": ["seed", "???"],
    "run.root=???": ["run.root", "???"],
    "data.seed=${seed}": ["data.seed", "${seed}"],
}

# content of a user's file | what the message must name
BAD_FILES = {
    "- 1\n- 2\n": ["seed: 1"],
    "3\n": ["seed: 1"],
    f"optim: {'[' * 300_000}": ["not readable YAML", "levels"],
    "optim:\n  lr: [\n": ["not readable YAML", "line 3"],
    "\tseed: 1\n": ["not readable YAML", "line 1"],
    "seed: 1\nseed: 2\n": ["duplicate key seed"],
    "seed: 1\n---\nseed: 2\n": ["single document"],
    "optim:\n": ["'optim'", "optim.name"],
    "data: [a]\n": ["'data'", "data.name"],
    "model: tcrd\n": ["'tcrd'", "'tcard'"],
    "model:\n  name: tcard\n  taau: 1\n": ["model.taau", "'model.tau'"],
    "1: 2\n": ["'1'"],
    "seed: ${nothing}\n": ["seed", "nothing"],
    "seed: !!python/object/apply:os.system ['exit 1']\n": ["not readable YAML"],
    "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n": ["limit"],
    b"\xff\xfe\x00": ["not readable YAML"],
    b"seed: 1\n# " + b"x" * 1_100_000: ["1 MB"],
}


def _values(cfg: Any) -> Any:
    return OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_what_to_write(
    mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "model=tcard", mistake]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tvr-bench: ") and printed.err.count("\n") == 1
    for expected in MISTAKES[mistake]:
        assert expected in printed.err


@pytest.mark.parametrize("content", BAD_FILES, ids=lambda content: repr(content[:20]))
def test_a_bad_file_is_one_line_that_names_it(
    content: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    assert main(["config", "--config", str(file)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    for expected in BAD_FILES[content]:
        assert expected in printed


@pytest.mark.parametrize("name", ["none.yaml", ".", "no/such/folder/x.yaml"])
def test_a_file_that_is_not_there(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--config", str(tmp_path / name)]) == 2
    assert f"{tmp_path / name} does not exist" in capsys.readouterr().err


def test_a_path_that_no_record_can_hold_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"caf\xe9")
    for words in (
        ["data=csv", f"data.file={name}.csv"],
        ["data=msrvtt", f"data.root=/{name}"],
        [f"paths.cache={name}"],
        [f"run.root={tmp_path}/{name}"],
        ["--config", f"{name}.yaml"],
    ):
        assert main(["bench", *words]) == 2
        shown = capsys.readouterr().err
        assert "has the byte 0xE9, which is not UTF-8" in shown and shown.count("\n") == 1


def test_any_name_can_be_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["config", "data=csv", "data.file=é.csv"]) == 0
    print(os.fsdecode(b"caf\xe9"))
    out.flush()
    shown = out.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"caf\\udce9" in shown and b"data:" in shown


# what is wrong with a run or a file before torch has anything to do with it | what is said of it
NO_TORCH = {
    "bench data=csv data.file=..": "is a folder; give a CSV",
    "bench model=tcrd": "no model 'tcrd'",
    "bench optm.lr=1": "unknown key 'optm.lr'",
    "bench seed=-1": "seed=-1",
    "bench --config none.yaml": "none.yaml does not exist",
    "bench data=csv": "needs data.file=VIDEOS.csv",
    "bench data=csv data.file=none.csv": "data.file=none.csv does not exist",
    "bench data=msrvtt": "needs data.root=FOLDER",
    "bench data=msrvtt data.root=none": "data.root=none is no folder",
    "bench data=msvd data.annotations=.": "needs data.root=FOLDER",
    "bench run.weights=none": "none is no finished run",
    "bench trainer.batch_size=9 trainer.devices=2": "cannot be shared evenly",
    "bench run.name=a/b": "run.name='a/b' is impossible",
    "bench run.root=/dev/null/runs": "cannot make the folder /dev/null/runs",
    "bench trainer.strategy=fsdp": "there is one device",
    "data check data=csv": "needs data.file=VIDEOS.csv",
    "data prepare data=vatex": "needs data.root=FOLDER",
    "export none out": "none is no finished run",
    "score none.npy": "there is no file none.npy",
    "score none.npy --gold none": "there is no file none.npy",
    "ocr none.mp4": "there is no file none.mp4",
    "sweep none": "no sweep 'none'",
    "sweep none.yaml": "none.yaml does not exist",
}


def test_a_mistake_is_answered_without_loading_torch(tmp_path: Path) -> None:
    """All in one process: whatever one of them imports, the set at the end shows."""
    code = (
        "import sys; from tvr_bench.cli import main\n"
        "codes = {main(line.split(' ')) for line in sys.argv[1:]}\n"
        "codes.add(main(['list'])); codes.add(main(['config']))\n"
        "heavy = {'torch', 'pytorch_lightning', 'torchmetrics', 'pandas', 'av', 'matplotlib'}\n"
        "heavy |= {'transformers', 'PIL', 'pyarrow', 'scipy.stats', 'onnxruntime'}\n"
        "sys.exit(f'{codes} {heavy & set(sys.modules)}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *NO_TORCH], capture_output=True, text=True, cwd=tmp_path
    )
    *said, last = done.stderr.splitlines()
    assert len(said) == len(NO_TORCH)
    for line, (command, expected) in zip(said, NO_TORCH.items(), strict=True):
        assert expected in line, command
    assert last == "{0, 2} set()"
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_what_begins_before_libraries_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config.load(["model=cret", "seed=3"])
    early.announce(cfg)
    assert capsys.readouterr().err == ""  # in a log file the run's own lines do
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    early.announce(cfg)
    assert capsys.readouterr().err == "cret on signvid, seed 3: loading PyTorch\n"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    early.announce(cfg)
    assert capsys.readouterr().err == ""


def test_a_gpu_that_cannot_be_there_is_missed_before_torch(tmp_path: Path) -> None:
    cfg = config.load(["trainer.accelerator=cuda"])
    with pytest.raises(UserError, match="1 GPUs asked for and 0 found"):
        early.check(cfg, tmp_path)
    for name in ("nvidia0", "nvidiactl", "dxg", "kfd", "nvhost-gpu", "dri/renderD128"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        early.check(cfg, tmp_path)  # only torch can tell
        (tmp_path / name).unlink()
    early.check(config.load(["trainer.accelerator=auto"]), tmp_path)


@pytest.mark.parametrize("word", synonyms.KEYS)
def test_a_key_known_from_elsewhere_is_answered_with_ours(word: str) -> None:
    ours = synonyms.KEYS[word]
    data = "msrvtt" if ours in ("data.root", "data.videos") else "csv"
    with pytest.raises(UserError, match=rf"unknown key.*Did you mean '{ours}'"):
        config.load([f"data={data}", f"optim.{word}=1"])


@pytest.mark.parametrize("key", synonyms.CHOICES)
def test_a_choice_known_from_elsewhere_is_ours(key: str) -> None:
    for word, ours in synonyms.CHOICES[key].items():
        assert OmegaConf.select(config.load([f"{key}={word}"]), key) == ours


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("data=MSRVTT", "data.name", "msrvtt"),
        ("data=MSR-VTT", "data.name", "msrvtt"),
        ("data.name=YouCook_2", "data.name", "youcook2"),
        ("model=T-CARD", "model.name", "tcard"),
        ("model=BiC-Net", "model.name", "bicnet"),
        ("model=TCD", "model.name", "tcard"),
        ("backbone=CLIP-ViT-B/32", "backbone.name", "clip_vit_b32"),
        ("optim.name=AdamW", "optim.name", "adamw"),
        ("trainer.precision=BF16", "trainer.precision", "bf16"),
    ],
)
def test_case_and_punctuation_make_no_other_name(setting: str, key: str, value: str) -> None:
    assert OmegaConf.select(config.load([setting]), key) == value


def _schema_keys(schema: Any, prefix: str = "") -> set[str]:
    keys = set()
    hints = get_type_hints(schema)
    for entry in fields(schema):
        kind = hints[entry.name]
        if is_dataclass(kind):
            keys |= _schema_keys(kind, f"{prefix}{entry.name}.")
        else:
            keys.add(f"{prefix}{entry.name}")
    return keys


def _yaml_keys(node: dict[str, Any], prefix: str = "") -> set[str]:
    keys = set()
    for key, value in node.items():
        inside = isinstance(value, dict) and f"{prefix}{key}" not in ("data", "model")
        keys |= _yaml_keys(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}"}
    return keys


def test_base_yaml_has_the_keys_of_the_schema_and_rules_for_known_keys() -> None:
    base = yaml.safe_load((config.CONFIG_ROOT / "base.yaml").read_text())
    rules = base.pop("rules")
    keys = _schema_keys(config.Config)
    assert _yaml_keys(base) == keys
    assert set(rules) <= keys


@pytest.mark.parametrize("kind", ["model", "data"])
def test_every_file_of_a_model_or_data_set_loads_and_keeps_its_own_rules(kind: str) -> None:
    for name in config.names(kind):
        cfg = config.load([f"{kind}={name}"])
        assert getattr(cfg, kind).name == name
        text = (config.CONFIG_ROOT / kind / f"{name}.yaml").read_text()
        for key in yaml.safe_load(text).get("rules", {}):
            assert OmegaConf.select(cfg, key, throw_on_missing=True) is not None or (
                key.startswith(f"{kind}.")
            )


def test_later_layers_win() -> None:
    base = config.load()
    assert (base.data.name, base.trainer.epochs, base.text.words) == ("signvid", 24, 32)
    assert config.load(["data=csv"]).trainer.epochs == 30
    assert config.load(["trainer.epochs=7"]).trainer.epochs == 7


def test_a_users_file_lies_between_the_data_set_and_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_bytes(b"\xef\xbb\xbfmodel: meanpool\r\ntrainer:\r\n  epochs: 9\r\n  workers: 2\r\n")
    cfg = config.load(["trainer.workers=1"], file)
    assert (cfg.model.name, cfg.trainer.epochs, cfg.trainer.workers) == ("meanpool", 9, 1)
    assert config.load(["model=tcard"], file).model.name == "tcard"


def test_settings_may_stand_in_any_order_and_the_last_one_wins() -> None:
    assert config.load(["model.tau=2", "model=tcard"]).model.tau == 2
    assert config.load(["seed=1", "seed=2"]).seed == 2
    with pytest.raises(UserError, match="'optim' is a section"):
        config.load(["optim=3", "optim.lr=3"])
    for one, other in (("model=cret", "model.name=tcard"), ("model.name=cret", "model=tcard")):
        assert config.load([one, other]).model.name == "tcard"
    assert config.load(["data.name=csv", "data=signvid"]).data.name == "signvid"
    assert config.load(["backbone.name=tiny", "backbone=features"]).backbone.name == "features"
    assert config.load(["optim={lr: 1}", "optim.lr=2"]).optim.lr == 2
    assert config.load(["optim.lr=2", "optim={lr: 1}"]).optim.lr == 1


def test_values_have_the_types_of_the_schema() -> None:
    cfg = config.load(["optim.lr=3e-4", "video.size=[32,48]", "ocr.enabled=no", "run.name=12"])
    assert cfg.optim.lr == 3e-4 and isinstance(cfg.optim.lr, float)
    assert tuple(cfg.video.size) == (32, 48)
    assert cfg.ocr.enabled is False
    assert cfg.run.name == "12"
    assert config.load(["trainer.precision=32"]).trainer.precision == "32"
    assert config.load(["run.name="]).run.name is None


def test_a_name_stands_for_its_section() -> None:
    cfg = config.load(["model=meanpool", "backbone=clip_vit_b32", "backbone.frozen=image"])
    assert (cfg.backbone.name, cfg.backbone.frozen) == ("clip_vit_b32", "image")
    with pytest.raises(UserError, match="no backbone of its own"):
        config.load(["model=meanpool", "backbone=paper"])


@pytest.mark.parametrize(
    ("said", "meant"), [("true", "all"), ("yes", "all"), ("false", "none"), ("Image", "image")]
)
def test_which_towers_are_frozen_may_be_a_truth_value(
    said: str, meant: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"backbone: {{frozen: {said}}}")
    assert config.load([f"backbone.frozen={said}"]).backbone.frozen == meant
    assert config.load([], file).backbone.frozen == meant
    assert config.load([("backbone.frozen", meant == "all")]).backbone.frozen in ("all", "none")
    assert "frozen: none" in config.to_yaml(config.load([("backbone.frozen", False)]))
    with pytest.raises(UserError, match="none, image, all"):
        config.load(["backbone.frozen=text"])


def test_with_pretrained_towers_signvid_freezes_and_caches_the_image_tower() -> None:
    def made(*words: str) -> tuple[Any, ...]:
        cfg = config.load(["data=signvid", "model=meanpool", *words])
        trainer = cfg.trainer
        return cfg.backbone.frozen, cfg.backbone.cache, trainer.shift, trainer.mirror

    towers = "backbone.weights=towers"
    scratch = ("none", False, 6, True)
    assert made("backbone.weights=none") == made("backbone.weights=null") == scratch
    assert made("backbone=clip_vit_b32") == made("backbone=clip_vit_b32", towers) == scratch
    assert made(towers) == ("image", True, 0, False)
    assert made(towers, "backbone.frozen=none") == ("none", False, 0, False)
    assert made(towers, "trainer.shift=2") == ("image", False, 2, False)
    assert made(towers, "trainer.mirror=true") == ("image", False, 0, True)
    assert made(towers, "backbone.frozen=none", "backbone.cache=true")[:2] == ("none", True)
    kept = config.to_yaml(config.load(["data=signvid", "model=meanpool", towers]))
    assert "frozen: image" in kept and "cache: true" in kept and "pretrained" not in kept


def test_the_papers_own_towers_come_without_its_schedule() -> None:
    shared = config.load(["model=tcard", "backbone.weights=none"])
    cfg = config.load(["model=tcard", "backbone=paper"])
    assert cfg.track == "controlled" and cfg.backbone.name == "clip_vit_b32"
    assert tuple(cfg.video.size) == (224, 224)
    assert cfg.trainer == shared.trainer and cfg.optim == shared.optim


def test_the_papers_track_lies_between_the_model_and_the_user(tmp_path: Path) -> None:
    cfg = config.load(["model=tcard", "track=paper"])
    assert (cfg.trainer.batch_size, cfg.backbone.name, cfg.video.frames) == (42, "clip_vit_b32", 12)
    file = tmp_path / "my.yaml"
    file.write_text("track: paper\nbackbone: tiny\ntrainer: {epochs: 2}\n")
    mine = config.load(["model=tcard", "optim.lr=1"], file)
    assert (mine.backbone.name, mine.trainer.epochs, mine.optim.lr) == ("tiny", 2, 1)
    assert mine.trainer.batch_size == 42
    file.write_text(config.to_yaml(cfg))
    assert _values(config.load(file=file)) == _values(cfg)


@pytest.mark.parametrize("model", config.names("model"))
def test_every_section_of_a_papers_track_holds_known_keys_and_possible_values(model: str) -> None:
    for name, section in config.paper_section(model).items():
        assert isinstance(section, dict), name
        if name not in ("towers", "all", "choices"):
            config.load([f"model={model}", f"data={name}", "track=paper"])


def test_a_second_name_is_filed_under_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(config.CONFIG_ROOT, tmp_path / "configs", symlinks=False)
    monkeypatch.setattr(config, "CONFIG_ROOT", tmp_path / "configs")
    path = tmp_path / "configs" / "model" / "meanpool.yaml"
    path.write_text("aliases: [floor]\n" + path.read_text())
    assert config.load(["model=floor"]).model.name == "meanpool"
    assert config.canonical("model", "floor") == "meanpool"
    with pytest.raises(UserError, match="Did you mean 'meanpool'"):
        config.canonical("model", "meanpol")


def test_a_configuration_cannot_be_changed() -> None:
    cfg = config.load()
    with pytest.raises(ReadonlyConfigError):
        cfg.seed = 3
    with pytest.raises(ReadonlyConfigError):
        cfg.optim.lr = 3.0


@pytest.mark.parametrize("data", config.names("data"))
@pytest.mark.parametrize("model", config.names("model"))
def test_the_resolved_yaml_reads_back_to_the_same_configuration(
    model: str, data: str, tmp_path: Path
) -> None:
    cfg = config.load([f"model={model}", f"data={data}", "run.name=a b", "optim.lr=1e-5"])
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(cfg))
    again = config.load(file=file)
    assert _values(again) == _values(cfg)
    assert config.to_yaml(again) == config.to_yaml(cfg)


_NUMBERS = st.floats(1e-9, 1e9) | st.integers(1, 2**31)


@settings(max_examples=20, deadline=None)
@given(lr=_NUMBERS, seed=st.integers(0, 2**32 - 1), name=st.text(min_size=1, max_size=20))
def test_any_value_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, lr: float, seed: int, name: str
) -> None:
    file = tmp_path_factory.mktemp("round") / "config.yaml"
    file.write_text(yaml.safe_dump({"optim": {"lr": lr}, "seed": seed, "run": {"root": name}}))
    try:
        cfg = config.load(file=file)
    except UserError:  # such as "${" or "???", which have a meaning of their own
        return
    file.write_text(config.to_yaml(cfg), encoding="utf-8")
    again = config.load(file=file)
    assert _values(again) == _values(cfg)
    assert (again.optim.lr, again.seed) == (lr, seed)
