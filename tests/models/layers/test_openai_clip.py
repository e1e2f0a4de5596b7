"""OpenAI's `.pt` files, against a forward pass written out, and files that must do nothing."""

from __future__ import annotations

import hashlib
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.layers.openai_files import (
    JOINT,
    PATCH,
    SIDE,
    WORDS,
    Node,
    State,
    encode_image,
    encode_text,
    pickle_of,
    random_state,
    save_archive,
)
from tvr_bench import config
from tvr_bench.datamodules.tokens import (
    as_openai_reads,
    build_tokenizer,
    encode,
    save_tokenizer,
    train_tokenizer,
)
from tvr_bench.errors import UserError
from tvr_bench.models.layers import hub
from tvr_bench.models.layers.backbone import build_backbone
from tvr_bench.models.layers.clip import ClipBackbone
from tvr_bench.models.layers.hub import CLIP as HUB
from tvr_bench.models.layers.openai_clip import load_openai
from tvr_bench.models.layers.torch_files import plain_data, read_state, read_torchscript

CAPTIONS = ["a dog runs to the left", "a red sign says open", "two cats sleep"]
NAME = "clip_vit_b32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both forms of one model, and its tokenizer."""
    path = tmp_path_factory.mktemp("openai")
    tokenizer = train_tokenizer(CAPTIONS, 320, WORDS)
    begin = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([*hub.CLIP_ENDS])
    template = tokenizer.post_processor
    tokenizer.post_processor = type(template)(
        single=f"{hub.CLIP_ENDS[0]} $A {hub.CLIP_ENDS[1]}",
        special_tokens=[(hub.CLIP_ENDS[0], begin), (hub.CLIP_ENDS[1], begin + 1)],
    )
    save_tokenizer(tokenizer, path / "tokenizer.json")
    state = random_state(begin + 2)
    torch.save(state, path / "state.pt")
    save_archive(state, path / "archive.pt")
    return path


@pytest.fixture
def state(folder: Path) -> State:
    return torch.load(folder / "state.pt", weights_only=True)


def _settings(weights: Path | str, *more: str) -> list[str]:
    places = [f"backbone.name={NAME}", f"backbone.weights={weights}"]
    return [*places, f"video.size=[{SIDE},{SIDE}]", f"text.words={WORDS}", *more]


def _tokens(weights: Path) -> tuple[Tensor, Tensor]:
    ids, mask = encode(build_tokenizer(config.load(_settings(weights)), []), CAPTIONS)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _fails(path: Path, name: str = NAME) -> str:
    with pytest.raises(UserError) as error:
        load_openai(name, path)
    message = str(error.value)
    assert "\n" not in message and len(message) < 600 and path.name in message
    return message


@pytest.mark.parametrize("form", ["state.pt", "archive.pt"])
def test_both_forms_have_the_features_of_the_forward_pass(
    form: str, folder: Path, state: State
) -> None:
    backbone = build_backbone(config.load(_settings(folder / form))).eval()
    assert isinstance(backbone, ClipBackbone)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    exact = {key: value.float() for key, value in state.items()}
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (2, 3, 3, SIDE, SIDE), generator=generator).byte()
    pixels = (frames.flatten(0, 1).float() / 255 - backbone.mean) / backbone.std
    ids, mask = _tokens(folder / form)
    with torch.no_grad():
        whole, patches = backbone.encode_frames(frames)
        pooled, words = backbone.encode_text(ids, mask)
    assert torch.allclose(whole.flatten(0, 1), encode_image(exact, pixels), atol=1e-5)
    assert torch.allclose(pooled, encode_text(exact, ids), atol=1e-5)
    assert pooled.std() > 0.1 and whole.std() > 0.1
    assert patches.shape == (2, 3, (SIDE // PATCH) ** 2, JOINT) and words.shape[1:] == (
        WORDS,
        JOINT,
    )


def test_both_forms_are_equal_to_the_last_bit(folder: Path) -> None:
    first, second = (load_openai(NAME, folder / f"{form}.pt") for form in ("state", "archive"))
    other = second.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in first.state_dict().items())
    assert first.config.to_dict() == second.config.to_dict()


def test_it_is_told_from_the_shapes_how_openai_builds_it(folder: Path) -> None:
    config = load_openai(NAME, folder / "archive.pt").config
    text, image = config.text_config, config.vision_config
    assert text.hidden_act == image.hidden_act == "quick_gelu"
    assert (text.num_attention_heads, image.num_attention_heads) == (1, 2)
    assert (image.image_size, image.patch_size) == (SIDE, PATCH)
    assert text.eos_token_id == text.vocab_size - 1
    assert text.layer_norm_eps == image.layer_norm_eps == 1e-5


class QuickGELU(Node):
    """The activation as OpenAI's archives name it."""


class GELU(Node):
    """The activation as those of open_clip name it."""


@pytest.mark.parametrize(
    ("kind", "given", "taken"),
    [
        (None, None, None),
        (None, "gelu", "gelu"),
        (None, "quick_gelu", "quick_gelu"),
        (QuickGELU, None, "quick_gelu"),
        (GELU, None, "gelu"),
        (GELU, "quick_gelu", "quick_gelu"),
    ],
)
def test_the_activation_is_the_one_named_else_quick_and_that_is_said(
    kind: type[Node] | None,
    given: str | None,
    taken: str | None,
    state: State,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "own.pt"
    if kind is None:
        torch.save(state, path)
    else:
        save_archive(state, path, kind())
    words = [] if given is None else [f"backbone.activation={given}"]
    cfg = config.load(_settings(path, *words))
    found = ClipBackbone(NAME, str(path), (SIDE, SIDE), cfg.backbone.activation)
    both = found.clip.config.text_config, found.clip.config.vision_config
    assert {one.hidden_act for one in both} == {taken or "quick_gelu"}
    printed = capsys.readouterr().err
    assert ("backbone.activation=gelu" in printed and str(path) in printed) == (taken is None)


def test_of_an_official_file_under_any_name_nothing_is_said(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = (official / "ViT-B-32.pt").rename(tmp_path / "renamed.pt")
    assert load_openai(NAME, path).config.text_config.hidden_act == "quick_gelu"
    assert "activation" not in capsys.readouterr().err
    assert "set backbone.name=clip_vit_b32" in _fails(path, "clip_vit_b16")


def test_the_sizes_kept_among_the_tensors_are_no_weights(
    folder: Path, state: State, tmp_path: Path
) -> None:
    torch.save(state | {"input_resolution": torch.tensor(SIDE)}, tmp_path / "x.pt")
    assert load_openai(NAME, tmp_path / "x.pt").config.projection_dim == JOINT


# ---- the official files, and the tokenizer


@pytest.fixture
def official(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which our file is taken for the official one."""
    (tmp_path / "ViT-B-32.pt").write_bytes((folder / "archive.pt").read_bytes())
    digest = hashlib.sha256((folder / "archive.pt").read_bytes()).hexdigest()
    monkeypatch.setitem(hub.OPENAI, "ViT-B-32.pt", (NAME, digest))
    return tmp_path


def test_an_official_file_is_verified(official: Path) -> None:
    path = official / "ViT-B-32.pt"
    assert load_openai(NAME, path).config.projection_dim == JOINT
    assert "set backbone.name=clip_vit_b32" in _fails(path, "clip_vit_b16")
    damaged = bytearray(path.read_bytes())
    damaged[5000] ^= 1
    path.write_bytes(damaged)
    assert "is not OpenAI's ViT-B-32.pt" in _fails(path)


@pytest.mark.parametrize("file", hub.OPENAI)
def test_a_file_of_ones_own_must_not_have_an_official_name(
    file: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes((folder / "state.pt").read_bytes())
    message = _fails(tmp_path / file, hub.OPENAI[file][0])
    assert hub.OPENAI[file][1] in message and "another name" in message


def test_the_tokenizer_lies_beside_the_file(folder: Path) -> None:
    ids, mask = _tokens(folder / "archive.pt")
    ends = mask.sum(1) - 1
    assert torch.equal(ids.argmax(1), ends), "the end is the highest token"


def test_texts_become_the_tokens_that_openai_makes_of_them(folder: Path) -> None:
    """What is on the left reads as what is on the right, by OpenAI's own `simple_tokenizer`."""
    tokenizer = build_tokenizer(config.load(_settings(folder / "state.pt")), [])
    same = {
        "a dog\u2019s “red” sign": 'a dog\'s "red" sign',
        "cats &amp; dogs": "cats & dogs",
        "cats &amp;amp; dogs": "cats & dogs",
        "&lt;b&gt; it&#39;s": "<b> it's",
        "a cafÃ©": "a caf\u00e9",
        "a cafe\u0301": "a caf\u00e9",
        "\uff37\uff29\uff24\uff25 \ufb01sh…": "wide fish…",
        " two\u00a0\u2003cats\r\n\tsleep ": "two cats sleep",
        "İstanbul": "i\u0307stanbul",
    }
    plain = [tokenizer.encode(f"{right}").ids for right in same.values()]
    assert encode(tokenizer, list(same))[0].tolist() == plain
    assert [as_openai_reads(left) for left in same] == list(same.values())


def test_without_a_tokenizer_beside_it_the_hub_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    asked = []

    def refuse(where: str) -> None:
        asked.append(where)
        raise OSError("there is no network\nhere")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    (tmp_path / "x.pt").write_bytes((folder / "archive.pt").read_bytes())
    with pytest.raises(UserError, match="brings no tokenizer") as error:
        build_tokenizer(config.load(_settings(tmp_path / "x.pt")), [])
    assert asked == [HUB[NAME]]
    assert "beside it" in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_of_another_model_beside_it_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes((folder / "archive.pt").read_bytes())
    save_tokenizer(train_tokenizer(CAPTIONS, 320, WORDS), tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="another model's"):
        build_tokenizer(config.load(_settings(tmp_path / "x.pt")), [])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*ViT-B-32\.pt.*sha256"):
        build_backbone(config.load(_settings(tmp_path / "ViT-B-32.pt")))


# ---- what does not fit


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("visual.proj"), "visual_projection"),
        (lambda s: s.pop("positional_embedding"), "no 'positional_embedding' in it"),
        (lambda s: s.pop("transformer.resblocks.1.ln_2.bias"), "layer_norm2.bias"),
        (lambda s: s.update({"visual.proj": torch.zeros(3, JOINT)}), "visual_projection.weight is"),
        (lambda s: s.update({"visual.proj": torch.zeros(3)}), "visual_projection.weight is"),
        (lambda s: s.update({"adapter.weight": torch.zeros(3)}), "adapter.weight"),
        (lambda s: s.update({"positional_embedding": torch.zeros(WORDS, 60)}), "60 and 128 wide"),
        (lambda s: s.update({"positional_embedding": torch.zeros(0)}), "not enough values"),
        (lambda s: s.update({"visual.conv1.weight": torch.zeros(0, 3, 1, 1)}), ""),
        (lambda s: s.update({"visual.positional_embedding": torch.zeros(7, 128)}), "position"),
        (lambda s: s.update({"visual.layer1.0.conv1.weight": torch.zeros(1)}), "layer1"),
        (lambda s: s.clear(), "no 'positional_embedding' in it"),
    ],
)
def test_other_tensors_are_refused_by_name(
    change: Callable[[State], Any], said: str, state: State, tmp_path: Path
) -> None:
    change(state)
    torch.save(state, tmp_path / "x.pt")
    assert said in _fails(tmp_path / "x.pt")


# ---- files of strangers


class Calls:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def _repack(source: Path, target: Path, entry: str, content: bytes, **how: Any) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            kind = how.get("compress_type", zipfile.ZIP_STORED) if name == entry else 0
            new.writestr(name, content if name == entry else old.read(name), kind)
    return target


def _pickles(canary: Path) -> dict[str, bytes]:
    """Pickles that would run something, or hurt the reader."""
    touch = b"cpathlib\nPath\n(V" + str(canary).encode() + b"\ntR"
    plain = {f"protocol {n}": pickle.dumps(Calls(canary), protocol=n) for n in range(6)}
    return plain | {
        "a shell": b"\x80\x02cos\nsystem\n(Vtouch " + str(canary).encode() + b"\ntR.",
        "eval": b"\x80\x02cbuiltins\neval\nX\x04\x00\x00\x001/0\n\x85R.",
        "INST": b"(Vtouch " + str(canary).encode() + b"\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nVtouch " + str(canary).encode() + b"\no.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        "extension": b"\x80\x02\x82\x01.",
        "a class is built": b"\x80\x02" + touch + b"}X\x09\x00\x00\x00__class__Nsb.",
        "slots are set": b"\x80\x02c__torch__\nM\n)\x81N}X\x01\x00\x00\x00aNs\x86b.",
        "a tensor calls": b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00a"
        + b"ctorch._utils\n_rebuild_tensor_v2\n"
        + touch
        + b"\x85Rsb.",
        "no end": b"\x80\x02]",
        "nothing": b"",
        "no mark": b"\x80\x02t.",
        "no memo": b"\x80\x02h\x07.",
        "a key that is no text": b"\x80\x02}K\x01K\x02s.",
        "an unhashable key": b"\x80\x02}]K\x02s.",
        "a long that is not there": b"\x80\x02\x8a\xff\x01.",
        "a text that is not there": b"\x80\x02X\xff\xff\xff\x7fabc.",
        "a root that is no module": b"\x80\x02K\x01.",
        "a module in itself": b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.",
        "deep modules": b"\x80\x02"
        + b"c__torch__\nM\n)\x81}X\x01\x00\x00\x00a" * 5000
        + b"N"
        + b"sb" * 5000
        + b".",
        "pairs of pairs": b"\x80\x02)" + b"q\x00h\x00\x86" * 5000 + b".",
        "marks": b"\x80\x02" + b"N" * 300_000 + b"(t" * 300_000 + b".",
        "too long": b"\x80\x02" + b"N" * 1_100_000 + b".",
    }


@pytest.mark.parametrize("name", _pickles(Path("x")))
def test_the_pickle_of_an_archive_runs_nothing(name: str, folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    source = folder / "archive.pt"
    content = _pickles(canary)[name]
    path = _repack(source, tmp_path / "x.pt", pickle_of(source), content)
    _fails(path)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["bare", "saved", "in a state"])
def test_a_pickle_in_place_of_a_state_dict_runs_nothing(
    form: str, protocol: int, tmp_path: Path
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "x.pt"
    hostile = Calls(canary)
    if form == "bare":
        path.write_bytes(pickle.dumps(hostile, protocol=protocol))
    else:
        content = hostile if form == "saved" else {"positional_embedding": hostile}
        torch.save(content, path, pickle_protocol=max(2, protocol))
    _fails(path)
    assert not canary.exists()


def test_the_canary_can_sing(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Calls(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_the_code_in_an_archive_is_not_even_read(folder: Path, tmp_path: Path) -> None:
    source = folder / "archive.pt"
    with zipfile.ZipFile(source) as archive:
        codes = [n for n in archive.namelist() if n.endswith(".py")]
    path = tmp_path / "x.pt"
    _repack(source, path, codes[0], b"this is no code at all (((")
    first, second = load_openai(NAME, source), load_openai(NAME, path)
    assert torch.equal(first.logit_scale, second.logit_scale)
    with pytest.raises(RuntimeError):
        torch.jit.load(str(path))


def _tensor_pickle(**changes: bytes) -> bytes:
    """Return a pickle of one module with one tensor, in parts that can be changed."""
    part = {
        "kind": b"ctorch\nHalfStorage\n",
        "key": b"X\x01\x00\x00\x000",
        "offset": b"K\x00",
        "shape": b"K\x04\x85",
        "stride": b"K\x01\x85",
    } | changes
    storage = (
        b"(X\x07\x00\x00\x00storage" + part["kind"] + part["key"] + b"X\x03\x00\x00\x00cpuK\x04tQ"
    )
    arguments = b"(" + storage + part["offset"] + part["shape"] + part["stride"] + b"\x89}t"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    return b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00a" + call + b"sb."


def _archive(path: Path, pickled: bytes, storage: bytes = b"\x00\x3c" * 4, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/data/0", storage)
        archive.writestr("x/constants.pkl", b"\x80\x02).")
        for name, content in more.items():
            archive.writestr(f"x/{name}", content)
    return path


def test_a_tensor_is_read_as_it_lies_in_its_storage(tmp_path: Path) -> None:
    storage = struct.pack("<6e", *range(6))
    changes = {"offset": b"K\x01", "shape": b"K\x02K\x02\x86", "stride": b"K\x01K\x02\x86"}
    path = _archive(tmp_path / "x.pt", _tensor_pickle(**changes), storage)
    (tensor,) = read_torchscript(path).values()
    assert tensor.tolist() == [[1, 3], [2, 4]] and tensor.dtype == torch.float16


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": b"K\x05\x85"},
        {"shape": b"J\xff\xff\xff\x7f\x85", "stride": b"K\x00\x85"},
        {"offset": b"K\x09"},
        {"offset": b"J\xff\xff\xff\xff"},
        {"stride": b"J\xff\xff\xff\xff\x85"},
        {"stride": b"K\x09\x85"},
        {"shape": b"N"},
        {"shape": b"G?\xf0\x00\x00\x00\x00\x00\x00\x85"},
        {"key": b"X\x01\x00\x00\x009"},
        {"key": b"X\x0b\x00\x00\x00../data.pkl"},
        {"key": b"N"},
        {"kind": b"N"},
    ],
)
def test_a_tensor_that_lies_about_itself_is_refused(
    changes: dict[str, bytes], tmp_path: Path
) -> None:
    path = _archive(tmp_path / "x.pt", _tensor_pickle(**changes))
    tracemalloc.start()
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        read_torchscript(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [b"cos\nsystem\n", b"ctorch\nLongStorage\n"])
def test_a_tensor_of_another_kind_is_no_weight(kind: bytes, tmp_path: Path) -> None:
    path = _archive(tmp_path / "x.pt", _tensor_pickle(kind=kind))
    assert read_torchscript(path) == {}


def test_storages_are_not_read_again_and_again(tmp_path: Path) -> None:
    one = _tensor_pickle().removeprefix(b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00a")
    many = b"".join(b"X\x02\x00\x00\x00" + f"{i:02}".encode() + one[:-3] + b"s" for i in range(50))
    pickled = b"\x80\x02c__torch__\nM\n)\x81}" + many + b"b."
    path = _archive(tmp_path / "x.pt", pickled, b"\x00\x3c" * 400_000)
    with pytest.raises(ValueError, match="larger than the file"):
        read_torchscript(path)


def test_an_archive_that_is_packed_or_of_other_byte_order_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    source = folder / "archive.pt"
    entry = pickle_of(source).replace("data.pkl", "data/0")
    packed = _repack(
        source, tmp_path / "x.pt", entry, bytes(50_000_000), compress_type=zipfile.ZIP_DEFLATED
    )
    assert "is packed" in _fails(packed)
    path = _archive(tmp_path / "y.pt", _tensor_pickle(), byteorder=b"big")
    assert "other order" in _fails(path)


@pytest.mark.parametrize("form", ["state.pt", "archive.pt"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(form: str, share: float, folder: Path, tmp_path: Path) -> None:
    content = (folder / form).read_bytes()
    (tmp_path / "x.pt").write_bytes(content[: int(share * len(content))])
    _fails(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {1: torch.zeros(1)},
        {"a": 1},
        {"state_dict": {"a": torch.zeros(1)}},
        torch.zeros(3),
        {"a": torch.zeros(3).to_sparse()},
        {"a": torch.zeros(1).expand(100_000_000)},
    ],
    ids=["list", "key", "number", "nested", "tensor", "sparse", "expanded"],
)
def test_what_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError):
        read_state(tmp_path / "x.pt")


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    assert "no plain state dict" in _fails(tmp_path / "x.pt")


def test_plain_data_are_read_as_pickle_reads_them() -> None:
    plain = {"a": [1, 2.5, None, True], "b": {"c": ((), (1,), (1, 2), (1, 2, 3), (1,) * 9)}}
    assert plain_data(pickle.dumps(plain, protocol=2)) == plain
