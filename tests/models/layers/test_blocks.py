"""Blocks of towers recomputed or compiled: the same numbers, less memory, the same names."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from models.layers.cait_files import CAIT_ARGS
from tvr_bench import config
from tvr_bench.errors import UserError
from tvr_bench.models.layers.backbone import build_backbone
from tvr_bench.models.layers.blocks import compiled, keep_no_activations, tower_blocks

BATCH, LENGTH, WIDTH = 2, 7, 16
SETTINGS = (
    *("video.size=[32,32]", "text.vocab=300", "text.words=7"),
    *("backbone.weights=none", "backbone.width=16"),
    *("backbone.heads=2", "backbone.layers=3", "backbone.text_layers=2", "backbone.dropout=0.2"),
)
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 4 * WIDTH,
}


def _tiny(*settings: str) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(config.load([*SETTINGS, *settings]))


def _clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    picture = SIZES | {"image_size": 32, "patch_size": 16}
    return CLIPModel(CLIPConfig(text_config=dict(SIZES), vision_config=picture)).eval()


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SIZES, vocab_size=50))


def _cait() -> nn.Module:
    import timm

    return timm.create_model("cait_s24_224", **CAIT_ARGS)


def _run(network: Any) -> Tensor:
    """Return one number that depends on every block of the network."""
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator)
    ids = torch.randint(0, 50, (BATCH, LENGTH), generator=generator)
    kind = type(network).__name__
    if kind == "CLIPModel":
        picture = network.vision_model(frames / 255).last_hidden_state
        found = [picture, network.text_model(ids).last_hidden_state]
    elif kind == "BertModel":
        found = [network(ids).last_hidden_state]
    elif kind == "Cait":
        found = [network.forward_features(frames / 255)]
    else:
        found = [*network.encode_frames(frames.byte()[:, None])]
        found += network.encode_text(ids, torch.ones_like(ids).bool())
    weights = torch.Generator().manual_seed(2)
    return torch.stack([(x * torch.randn(x.shape, generator=weights)).sum() for x in found]).sum()


def _step(network: nn.Module) -> tuple[Tensor, dict[str, Tensor], int]:
    """Return loss, gradients, and the bytes that the graph holds without the weights."""
    held: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def note(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with saved_tensors_hooks(note, lambda x: x):
        loss = _run(network)
    network.zero_grad()
    loss.backward()
    grads = {k: p.grad for k, p in network.named_parameters() if p.grad is not None}
    return loss.detach(), grads, sum(held.values())


@pytest.mark.parametrize(
    ("build", "count"), [(_tiny, 5), (_clip, 4), (_bert, 2), (_cait, 4)], ids=lambda x: str(x)[:14]
)
def test_recomputed_blocks_have_the_same_gradient_in_less_memory(build: Any, count: int) -> None:
    """Dropout included; CLIP in evaluation mode, as it comes from its files."""
    torch.manual_seed(0)
    plain = build()
    network = copy.deepcopy(plain)
    assert len(tower_blocks(network)) == count
    keep_no_activations(network)
    expected, found = _step(plain), _step(network)
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys() and found[1]
    for name, value in expected[1].items():
        assert torch.allclose(found[1][name], value, rtol=1e-6, atol=1e-7), name
    assert found[2] < 0.6 * expected[2]
    assert network.state_dict().keys() == plain.state_dict().keys()


def test_the_setting_reaches_the_backbone_and_its_copies() -> None:
    plain, network = _tiny(), _tiny("backbone.checkpointing=true")
    expected = _step(plain)
    for one in (network, copy.deepcopy(network)):
        loss, grads, held = _step(one)
        assert torch.equal(loss, expected[0]) and held < 0.6 * expected[2]
        assert grads.keys() == expected[1].keys()
    own = {id(block) for block in tower_blocks(network)}
    twin: Any = tower_blocks(copy.deepcopy(network))[0].forward
    assert id(twin.args[0].__self__) not in own, "a copy recomputes its own blocks"


def test_without_a_compiler_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    monkeypatch.delenv("CXX", raising=False)
    message = r"needs a compiler \(g\+\+ .*trainer\.compile=false"
    with pytest.raises(UserError, match=message), compiled(_tiny()):
        pass


def test_blocks_are_compiled_inside_and_plain_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def compile_(forward: Any) -> Any:
        seen.append(forward)
        return lambda *args, **kwargs: -forward(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(shutil, "which", lambda name: Path("/bin") / name)
    network = _tiny()
    before = _run(network)
    with compiled(network):
        assert len(seen) == len(tower_blocks(network)) and not torch.equal(_run(network), before)
    assert torch.equal(_run(network), before)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_compiled_blocks_give_the_same_gradient() -> None:
    plain = _tiny("backbone.dropout=0", "backbone.layers=1", "backbone.text_layers=1")
    network = copy.deepcopy(plain)
    expected = _step(plain)
    with compiled(network):
        loss, grads, _ = _step(network)
    assert torch.allclose(loss, expected[0], rtol=1e-5)
    for name, value in expected[1].items():
        assert torch.allclose(grads[name], value, rtol=1e-4, atol=1e-5), name
