"""CLIP towers from a local folder, against `transformers` itself; and no weights at all."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tvr_bench import config
from tvr_bench.datamodules.tokens import build_tokenizer, encode, save_tokenizer, train_tokenizer
from tvr_bench.errors import UserError
from tvr_bench.models.layers.backbone import build_backbone
from tvr_bench.models.layers.clip import ClipBackbone
from tvr_bench.models.layers.hub import CLIP as HUB
from tvr_bench.registry import create_model

CAPTIONS = ["a dog runs to the left", "a red sign says open", "two cats sleep"]
SIDE, WORDS, WIDTH = 32, 12, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of CLIP's architecture, as small as can be, with random weights."""
    from transformers import CLIPConfig, CLIPModel

    path = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(CAPTIONS, 320, WORDS)
    end = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["<end>"])
    template = tokenizer.post_processor
    tokenizer.post_processor = type(template)(
        single="<s> $A <end>", special_tokens=[("<s>", 1), ("<end>", end)]
    )
    save_tokenizer(tokenizer, path / "tokenizer.json")
    shared: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            projection_dim=WIDTH,
            text_config=shared
            | {"vocab_size": 400, "max_position_embeddings": 16, "eos_token_id": end},
            vision_config=shared | {"image_size": SIDE, "patch_size": 16},
        )
    )
    model.save_pretrained(path)
    return path


def _settings(folder: Path | str, *more: str) -> list[str]:
    size = f"video.size=[{SIDE},{SIDE}]"
    return [
        "backbone.name=clip_vit_b32",
        f"backbone.weights={folder}",
        size,
        f"text.words={WORDS}",
        *more,
    ]


@pytest.fixture
def backbone(folder: Path) -> ClipBackbone:
    built = build_backbone(config.load(_settings(folder)))
    assert isinstance(built, ClipBackbone)
    return built.eval()


def _tokens(folder: Path) -> tuple[Tensor, Tensor]:
    ids, mask = encode(build_tokenizer(config.load(_settings(folder)), []), CAPTIONS)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _tensor(output: Any) -> Tensor:
    """What `get_text_features` returns: the features, or an output that holds them."""
    return output if isinstance(output, Tensor) else output.pooler_output


def test_the_tokenizer_comes_from_the_folder(folder: Path) -> None:
    ids, mask = _tokens(folder)
    assert ids.shape == (3, WORDS)
    ends = mask.sum(1) - 1
    assert len(set(ids[torch.arange(3), ends].tolist())) == 1
    assert (ids[:, 0] == 1).all()
    long, _ = encode(build_tokenizer(config.load(_settings(folder)), []), ["dog " * 99])
    assert long[0, -1] == ids[0, ends[0]], "a cut text keeps its end"


def test_texts_have_the_features_of_transformers(folder: Path, backbone: ClipBackbone) -> None:
    ids, mask = _tokens(folder)
    with torch.no_grad():
        expected = _tensor(
            backbone.clip.get_text_features(input_ids=ids, attention_mask=mask.long())
        )
        pooled, words = backbone.encode_text(ids, mask)
    assert pooled.shape == (3, WIDTH) and words.shape == (3, WORDS, WIDTH)
    assert torch.allclose(pooled, expected, atol=1e-5)
    assert torch.allclose(words[torch.arange(3), mask.sum(1) - 1], expected, atol=1e-5)


def test_frames_have_the_features_of_transformers(backbone: ClipBackbone) -> None:
    from transformers import CLIPImageProcessor

    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 3, SIDE, SIDE), generator=generator).byte()
    processor: Any = CLIPImageProcessor(do_resize=False, do_center_crop=False, do_convert_rgb=False)
    images = [frame.permute(1, 2, 0).numpy() for frame in frames.flatten(0, 1)]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = _tensor(backbone.clip.get_image_features(pixel_values=pixels))
        whole, patches = backbone.encode_frames(frames)
    assert whole.shape == (2, 3, WIDTH) and patches.shape == (2, 3, 4, WIDTH)
    assert torch.allclose(whole.flatten(0, 1), expected, atol=1e-5)


def test_it_is_loaded_in_full_precision(folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel

    CLIPModel.from_pretrained(folder).half().save_pretrained(tmp_path / "half")
    built = build_backbone(config.load(_settings(tmp_path / "half")))
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["meanpool", "tcard"])
@pytest.mark.parametrize("encoder", ["shared", "untied"])
def test_a_model_trains_on_it(name: str, encoder: str, folder: Path) -> None:
    pairs = dict(setting.split("=", 1) for setting in _settings(folder))
    more = {"ocr.windows": 2, "video.frames": 3}
    more |= {"model.heads": 2, "model.ocr_encoder": encoder} if name == "tcard" else {}
    model = create_model(name, **pairs, **more)
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    ids, mask = _tokens(folder)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "text_ids": ids,
        "text_mask": mask,
        "frames": torch.randint(0, 256, (3, 3, 3, SIDE, SIDE), generator=generator).byte(),
        "frame_mask": torch.ones(3, 3).bool(),
        "ocr_ids": ids[:, None].expand(-1, 2, -1),
        "ocr_mask": mask[:, None].expand(-1, 2, -1),
    }
    loss = model.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    rates = {group["lr"] for group in model.parameter_groups()}
    lr = model.cfg.optim.lr
    assert min(rates) == pytest.approx(1e-3 * lr) and max(rates) == pytest.approx(lr)


@pytest.mark.parametrize(("own", "first"), [(50.0, 50.0), (250.0, 100.0)])
def test_the_logit_scale_starts_where_clip_left_it(
    own: float, first: float, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights["logit_scale"] = torch.tensor(own).log()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    pairs = dict(setting.split("=", 1) for setting in _settings(tmp_path))
    for name in ("meanpool", "cret"):
        model = create_model(name, **pairs)
        assert model.logit_scale.item() == pytest.approx(first, rel=1e-5)
        assert model.log_scale.requires_grad
    told = create_model("meanpool", **pairs, **{"loss.scale": 20})
    assert told.logit_scale.item() == pytest.approx(20)


def test_a_wrong_size_names_the_right_one(folder: Path) -> None:
    with pytest.raises(UserError, match=r"set video\.size=\[32,32\]"):
        build_backbone(config.load([*_settings(folder), "video.size=[224,224]"]))


def test_more_words_than_it_has_positions_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"text\.words=17 .*16"):
        build_backbone(config.load([*_settings(folder), "text.words=17"]))


@pytest.mark.parametrize("gone", ["model.safetensors", "config.json"])
def test_a_folder_that_lacks_a_file_says_what_to_download(
    gone: str, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / gone).unlink()
    with pytest.raises(UserError, match=r"no weights at .*model\.safetensors") as error:
        build_backbone(config.load(_settings(copy)))
    assert "\n" not in str(error.value)
    assert "backbone.weights=FOLDER" in str(error.value)


def test_weights_that_are_not_all_there_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no visual_projection\.weight in it"):
        build_backbone(config.load(_settings(copy)))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"text_config": 5}',
        '{"projection_dim": "x"}',
        "[" * 9999,
        "\0" * 99,
    ],
)
def test_broken_files_are_one_line(file: str, content: str, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / file).write_text(content)
    with pytest.raises(UserError, match="no weights at") as error:
        build_backbone(config.load(_settings(copy)))
    assert "\n" not in str(error.value)


def _with_pickle(folder: Path, tmp_path: Path, content: Any) -> Path:
    """A folder as OpenAI's main branch on the hub has it: without safetensors."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "model.safetensors").unlink()
    torch.save(content, copy / "pytorch_model.bin")
    return copy


def test_a_state_dict_of_the_hub_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    old = {"text_model.embeddings.position_ids": torch.arange(16)[None]}  # no longer kept
    copy = _with_pickle(folder, tmp_path, tensors | old)
    first, second = (build_backbone(config.load(_settings(place))) for place in (folder, copy))
    other = second.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in first.state_dict().items())
    torch.save({"harmless": torch.zeros(1)}, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="no weights at"):
        build_backbone(config.load(_settings(copy)))


class Calls:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("bare", [True, False])
def test_a_pickle_that_calls_is_refused(
    file: str, bare: bool, folder: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    copy = _with_pickle(folder, tmp_path, Calls(canary))
    if bare:
        (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Calls(canary)))
    (copy / "pytorch_model.bin").rename(copy / file)
    with pytest.raises(UserError, match="no weights at") as error:
        build_backbone(config.load(_settings(copy)))
    assert "\n" not in str(error.value) and not canary.exists()


def test_the_hub_is_asked_for_safetensors_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    pickled = _with_pickle(folder, tmp_path, load_file(folder / "model.safetensors"))
    asked: list[str] = []

    def download(repository: str, allow_patterns: list[str]) -> str:
        assert repository == HUB["clip_vit_b32"]
        asked.append(allow_patterns[-1])
        return str(folder if allow_patterns[-1] in hub else pickled)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    settings = [s for s in _settings("") if not s.startswith("backbone.weights")]
    hub = {"model.safetensors"}
    first = build_backbone(config.load(settings))
    assert asked == ["model.safetensors"]
    hub = set()
    second = build_backbone(config.load(settings))
    assert asked == ["model.safetensors", "model.safetensors", "pytorch_model.bin"]
    other = second.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


def test_damaged_weights_and_a_missing_tokenizer_are_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer at .*tokenizer\.json"):
        build_tokenizer(config.load(_settings(copy)), [])
    (copy / "model.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(UserError, match="no weights at"):
        build_backbone(config.load(_settings(copy)))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        build_backbone(config.load(_settings(tmp_path / "a" / "b")))


def test_without_network_and_weights_the_command_says_what_to_download(tmp_path: Path) -> None:
    """The whole command, before a single video is rendered."""
    name = "clip_vit_b32"
    words = ["bench", "model=meanpool", f"backbone.name={name}", "video.size=[224,224]"]
    places = [f"run.root={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}"]
    done = subprocess.run(
        [Path(sys.executable).with_name("tvr-bench"), *words, *places],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("tvr-bench: ")]
    assert HUB[name] in line and "backbone.weights=FOLDER" in line
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "cache").rglob("*.mp4"))
