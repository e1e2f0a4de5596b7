"""CaiT and BERT from local folders, against `timm` and `transformers`; and no weights at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.layers.cait_files import CAPTIONS, IMAGE, SIDE, TEXT, save_bert, save_cait
from tvr_bench import config
from tvr_bench.datamodules.tokens import build_tokenizer, encode
from tvr_bench.errors import UserError
from tvr_bench.evaluation.efficiency import count_flops
from tvr_bench.models.layers import cait_bert
from tvr_bench.models.layers.backbone import build_backbone
from tvr_bench.models.layers.cait_bert import CaitBertBackbone
from tvr_bench.models.layers.hub import CAIT_BERT as HUB
from tvr_bench.registry import create_model

WORDS = 12
CAIT, BERT = HUB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both towers' architectures, as small as can be, with random weights."""
    path = tmp_path_factory.mktemp("cait_bert")
    torch.manual_seed(0)
    save_cait(path / CAIT)
    save_bert(path / BERT)
    return path


def _settings(folder: Path | str, *more: str) -> list[str]:
    places = ["backbone.name=cait_bert", f"backbone.weights={folder}"]
    return [*places, f"video.size=[{SIDE},{SIDE}]", f"text.words={WORDS}", *more]


@pytest.fixture
def backbone(folder: Path) -> CaitBertBackbone:
    built = build_backbone(config.load(_settings(folder)))
    assert isinstance(built, CaitBertBackbone)
    return built.eval()


def _tokens(folder: Path) -> tuple[Tensor, Tensor]:
    ids, mask = encode(build_tokenizer(config.load(_settings(folder)), []), CAPTIONS)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _frames() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 3, SIDE, SIDE), generator=generator).byte()


def test_the_tokenizer_is_berts_own(folder: Path) -> None:
    ids, mask = _tokens(folder)
    assert ids.shape == (3, WORDS) and (ids[:, 0] == 2).all()
    ends = mask.sum(1) - 1
    assert (ids[torch.arange(3), ends] == 3).all() and not ids[~mask].any()
    assert ids[0, 1] == ids[1, 1], "upper case is lowered"
    long, _ = encode(build_tokenizer(config.load(_settings(folder)), []), ["dog " * 99])
    assert long[0, -1] == 3, "a cut text keeps its end"


def test_texts_have_the_features_of_transformers(folder: Path, backbone: CaitBertBackbone) -> None:
    from transformers import BertForPreTraining

    ids, mask = _tokens(folder)
    whole = BertForPreTraining.from_pretrained(folder / BERT).eval()
    with torch.no_grad():
        expected = whole.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        pooled, words = backbone.encode_text(ids, mask)
    assert pooled.shape == (3, TEXT) and words.shape == (3, WORDS, TEXT)
    assert torch.allclose(words[mask], expected[mask], atol=1e-5)
    assert torch.equal(pooled, words[:, 0])


def test_frames_have_the_features_of_timm_padded_to_berts_width(
    folder: Path, backbone: CaitBertBackbone
) -> None:
    import timm

    model = timm.create_model(f"local-dir:{folder / CAIT}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    pixels = _frames().flatten(0, 1).float() / 255
    for channel in range(3):
        pixels[:, channel] -= data["mean"][channel]
        pixels[:, channel] /= data["std"][channel]
    with torch.no_grad():
        expected = model.forward_features(pixels)
        whole, patches = backbone.encode_frames(_frames())
    assert whole.shape == (2, 3, TEXT) and patches.shape == (2, 3, 4, TEXT)
    assert backbone.image_dim == IMAGE and backbone.dim == TEXT
    assert torch.allclose(whole.flatten(0, 1)[:, :IMAGE], expected[:, 0], atol=1e-5)
    assert torch.allclose(patches.flatten(0, 1)[..., :IMAGE], expected[:, 1:], atol=1e-5)
    assert not whole[..., IMAGE:].any() and not patches[..., IMAGE:].any()
    assert whole[..., :IMAGE].std() > 0.1


def test_it_is_loaded_in_full_precision(folder: Path, tmp_path: Path) -> None:
    copy = _copy(folder, tmp_path)
    for part in HUB:
        file = copy / part / "model.safetensors"
        halves = {key: value.half() for key, value in load_file(file).items()}
        save_file(halves, file, metadata={"format": "pt"})
    built = build_backbone(config.load(_settings(copy)))
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}


def test_its_operations_can_be_counted(backbone: CaitBertBackbone) -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert count_flops(lambda: backbone.encode_frames(_frames())) > 100_000
    assert backbone.image.cls_token.requires_grad


@pytest.mark.parametrize("name", ["cret", "meanpool"])
def test_a_model_trains_on_it(name: str, folder: Path) -> None:
    pairs = dict(setting.split("=", 1) for setting in _settings(folder))
    model = create_model(name, **pairs, **{"video.frames": 3})
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    ids, mask = _tokens(folder)
    batch = {
        "text_ids": ids[:2],
        "text_mask": mask[:2],
        "frames": _frames(),
        "frame_mask": torch.ones(2, 3).bool(),
    }
    loss = model.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_cret_projects_only_the_channels_that_are_not_padding(folder: Path) -> None:
    pairs = dict(setting.split("=", 1) for setting in _settings(folder))
    model: Any = create_model("cret", **pairs)
    assert tuple(model.frame_project.weight.shape) == (TEXT, IMAGE)
    assert tuple(model.patch_project.weight.shape) == (TEXT, IMAGE)
    new = {f"network.{name}" for name, _ in model.network.named_parameters()}
    assert not any("project" in name for name in new), "they learn at the rate of what is new"


def test_backbone_paper_is_what_cret_used(folder: Path) -> None:
    cfg = config.load(["model=cret", "backbone=paper"])
    assert (cfg.backbone.name, tuple(cfg.video.size)) == ("cait_bert", (224, 224))
    assert cfg.optim.lr * cfg.optim.backbone_lr == pytest.approx(2e-4)  # of SignVid's own rate
    paper = config.load(["model=cret", "track=paper"])
    assert paper.optim.lr * paper.optim.backbone_lr == pytest.approx(1e-5)
    assert (paper.video.frames, paper.eval.frames) == (4, 8)


def test_a_wrong_size_names_the_right_one(folder: Path) -> None:
    with pytest.raises(UserError, match=r"set video\.size=\[32,32\]"):
        build_backbone(config.load([*_settings(folder), "video.size=[224,224]"]))


def test_more_words_than_it_has_positions_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"text\.words=17 .*16"):
        build_backbone(config.load([*_settings(folder), "text.words=17"]))


def _copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def _assert_says_what_to_do(error: UserError) -> None:
    message = str(error)
    assert "\n" not in message and "backbone.weights=FOLDER" in message
    for part, repository in HUB.items():
        assert repository in message and f"FOLDER/{part}" in message


@pytest.mark.parametrize("part", [CAIT, BERT])
@pytest.mark.parametrize("gone", ["model.safetensors", "config.json", ""])
def test_a_folder_that_lacks_a_file_says_what_to_download(
    part: str, gone: str, folder: Path, tmp_path: Path
) -> None:
    copy = _copy(folder, tmp_path)
    if gone:
        (copy / part / gone).unlink()
    else:
        shutil.rmtree(copy / part)
    with pytest.raises(UserError, match="no weights at") as error:
        build_backbone(config.load(_settings(copy)))
    _assert_says_what_to_do(error.value)


@pytest.mark.parametrize(
    ("part", "tensor"),
    [(CAIT, "blocks.0.attn.qkv.weight"), (BERT, "bert.encoder.layer.0.output.dense.weight")],
)
def test_weights_that_are_not_all_there_are_refused(
    part: str, tensor: str, folder: Path, tmp_path: Path
) -> None:
    copy = _copy(folder, tmp_path)
    file = copy / part / "model.safetensors"
    tensors = load_file(file)
    del tensors[tensor]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="no weights at"):
        build_backbone(config.load(_settings(copy)))


def test_a_bert_without_a_head_loads_equally(folder: Path, tmp_path: Path) -> None:
    """As `BertModel.save_pretrained` writes it: no prefix, new names of the norms, a pooler."""
    from transformers import BertModel

    copy = _copy(folder, tmp_path)
    BertModel.from_pretrained(folder / BERT).save_pretrained(copy / BERT)
    assert "pooler.dense.weight" in load_file(copy / BERT / "model.safetensors")
    first, second = (cait_bert._load_text(str(place)) for place in (folder, copy))
    other = second.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


def test_a_cait_without_a_head_loads_equally(folder: Path, tmp_path: Path) -> None:
    copy = _copy(folder, tmp_path)
    file = copy / CAIT / "model.safetensors"
    tensors = load_file(file)
    assert tensors.pop("head.weight").shape == (5, IMAGE) and tensors.pop("head.bias") is not None
    save_file(tensors, file, metadata={"format": "pt"})
    first, second = (cait_bert._load_image(str(place)) for place in (folder, copy))
    other = second.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize(
    "change", [{"blocks.0.attn.qkv.weight": torch.zeros(3)}, {"new": torch.zeros(1)}]
)
def test_a_cait_of_other_tensors_is_refused(
    change: dict[str, Tensor], folder: Path, tmp_path: Path
) -> None:
    copy = _copy(folder, tmp_path)
    file = copy / CAIT / "model.safetensors"
    save_file(load_file(file) | change, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="no weights at") as error:
        build_backbone(config.load(_settings(copy)))
    _assert_says_what_to_do(error.value)


@pytest.mark.parametrize(
    "config_json",
    [
        "",
        "[]",
        "{}",
        '{"architecture": 5}',
        '{"architecture": "cait_s24_224", "model_args": {"depth": "x"}, "pretrained_cfg": {}}',
        '{"architecture": "no_such_model", "pretrained_cfg": {}}',
    ],
)
def test_a_broken_configuration_of_cait_is_named(
    config_json: str, folder: Path, tmp_path: Path
) -> None:
    copy = _copy(folder, tmp_path)
    (copy / CAIT / "config.json").write_text(config_json)
    with pytest.raises(UserError, match="no weights at") as error:
        build_backbone(config.load(_settings(copy)))
    _assert_says_what_to_do(error.value)


@pytest.mark.parametrize("part", [CAIT, BERT])
def test_a_pickle_is_not_opened_and_damage_is_named(
    part: str, folder: Path, tmp_path: Path
) -> None:
    copy = _copy(folder, tmp_path)
    file = copy / part / "model.safetensors"
    file.write_bytes(b"\x00" * 50)
    with pytest.raises(UserError, match="no weights at"):
        build_backbone(config.load(_settings(copy)))
    file.unlink()
    torch.save({"harmless": torch.zeros(1)}, copy / part / "pytorch_model.bin")
    with pytest.raises(UserError, match="no weights at"):
        build_backbone(config.load(_settings(copy)))


def test_another_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = _copy(folder, tmp_path)
    file = copy / CAIT / "config.json"
    file.write_text('{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}')
    with pytest.raises(UserError, match="is no CaiT"):
        build_backbone(config.load(_settings(copy)))


def test_a_missing_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    copy = _copy(folder, tmp_path)
    (copy / BERT / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer at .*tokenizer\.json"):
        build_tokenizer(config.load(_settings(copy)), [])


def test_the_hub_is_asked_for_what_no_folder_gives(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(folder / CAIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = cait_bert._load_image(None)
    assert asked == [(HUB[CAIT], ["config.json", "model.safetensors"])]
    expected = cait_bert._load_image(str(folder)).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    assert cait_bert.text_source("cait_bert", None) == HUB[BERT]


@pytest.mark.slow
def test_without_network_and_weights_the_command_says_what_to_download(tmp_path: Path) -> None:
    """The whole command, before a single video is rendered."""
    places = [f"run.root={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}"]
    done = subprocess.run(
        [
            Path(sys.executable).with_name("tvr-bench"),
            "bench",
            "model=cret",
            "track=paper",
            *places,
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("tvr-bench: ")]
    _assert_says_what_to_do(UserError(line))
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "cache").rglob("*.mp4"))
