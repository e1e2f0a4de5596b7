"""Weight files of EasyOCR's own networks and format, made up so that they find rendered signs.

All layers are random but the detector's last, which is fitted to a few frames: a random VGG16
already tells letters from a plain wall. What the recogniser reads means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from easyocr import config
from easyocr.craft import CRAFT
from easyocr.imgproc import normalizeMeanVariance
from easyocr.model.vgg_model import Model
from ocr_clips import Sign, draw, font
from torch import Tensor, nn

SIZE = (192, 128)
PAGES: list[list[Sign]] = [
    [("green bakery", 16, 20), ("hotel", 70, 86)],
    [("museum", 30, 50)],
    [],
]
_MIDDLE = 0.8  # of the fitted map inside words, above the library's thresholds
_DAMPING = 0.05  # of the fit, as a share of the inputs' variance: no large weights that cancel out
_DECIDED = 6.0  # factor of the logits, so that some lines are read with a high score
_AXES = 8  # in which the places of a line differ most


def grey(frame: np.ndarray) -> np.ndarray:
    """Return a frame with three equal channels: the library takes some arrays for BGR."""
    return np.repeat(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def save_weights(folder: Path) -> None:
    """Write the two files with keys as DataParallel names them, which is how they are published."""
    torch.manual_seed(0)
    recogniser = config.recognition_models["gen2"]["english_g2"]
    _save(_detector(), folder / config.detection_models["craft"]["filename"])
    _save(_recogniser(len(recogniser["characters"]) + 1), folder / recogniser["filename"])


def _save(network: nn.Module, path: Path) -> None:
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, path)


@torch.no_grad()
def _detector() -> nn.Module:
    frames = [normalizeMeanVariance(grey(draw(page, SIZE))).transpose(2, 0, 1) for page in PAGES]
    images = torch.from_numpy(np.stack(frames))
    network = _random_detector()
    _settle(network, images)
    seen: list[Tensor] = []
    hook = network.conv_cls[7].register_forward_hook(lambda *call: seen.append(call[2]))
    network(images)
    hook.remove()
    inputs = seen[0].permute(0, 2, 3, 1).flatten(0, 2)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    wanted = torch.from_numpy(np.stack([_text_map(page) for page in PAGES])).flatten()
    fitted = _regress(inputs, wanted)
    fitted *= _MIDDLE / (inputs @ fitted)[wanted > 0].mean()
    last = network.conv_cls[8]
    last.weight.zero_()
    last.weight[0, :, 0, 0] = fitted[:-1]
    last.bias.copy_(torch.stack([fitted[-1], torch.tensor(0.0)]))
    return network


def _regress(inputs: Tensor, wanted: Tensor) -> Tensor:
    """Return small weights that map inputs [N, C] to wanted [N], the last input being a one."""
    damping = _DAMPING * len(inputs) * inputs[:, :-1].var(0).mean() * torch.eye(inputs.shape[1])
    damping[-1, -1] = 0
    return torch.linalg.solve(inputs.T @ inputs + damping, inputs.T @ wanted)


def _random_detector() -> nn.Module:
    """Return a CRAFT; its own initialisation takes a second, this a fifth of it."""
    with torch.device("meta"):
        network = CRAFT()
    network.to_empty(device="cpu")
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            limit = (3 / part.weight[0].numel()) ** 0.5
            nn.init.uniform_(part.weight, -limit, limit)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
    return network


@torch.no_grad()
def _recogniser(classes: int) -> nn.Module:
    """Return a reader that says something else at every place of a line, always the same."""
    network = Model(1, 256, 256, classes)
    lines = torch.cat([_lines(page) for page in PAGES if page])
    _settle(network, lines, torch.zeros(len(lines), 20, dtype=torch.long))
    seen: list[Tensor] = []
    hook = network.SequenceModeling.register_forward_hook(lambda *call: seen.append(call[2]))
    network(lines, torch.zeros(len(lines), 20, dtype=torch.long))
    hook.remove()
    places = seen[0].flatten(0, 1)
    middle = places.mean(0)
    _, spread, axes = torch.linalg.svd(places - middle, full_matrices=False)
    scaled = axes[:_AXES] / spread[:_AXES, None] * len(places) ** 0.5
    network.Prediction.weight.copy_(_DECIDED * torch.randn(classes, _AXES) @ scaled)
    network.Prediction.bias.copy_(-network.Prediction.weight @ middle)
    return network


def _lines(page: Sequence[Sign]) -> Tensor:
    """Return the signs of a page as the recogniser takes them, [N, 1, 64, 256], -1 to 1."""
    grey = cv2.cvtColor(draw(page, SIZE), cv2.COLOR_RGB2GRAY)
    cut = [
        cv2.resize(grey[top - 2 : top + 20, left : left + 88], (256, 64)) for _, left, top in page
    ]
    return torch.from_numpy(np.stack(cut)).float()[:, None] / 127.5 - 1


def _settle(network: nn.Module, *inputs: Tensor) -> None:
    """Let the normalisations see what they will be given."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    network.train()
    network(*inputs)
    network.eval()


def _text_map(page: Sequence[Sign]) -> np.ndarray:
    """Return 1 where letters stand, at half the frame's size as the detector answers."""
    wanted = np.zeros((SIZE[1] // 2, SIZE[0] // 2), np.float32)
    for text, left, top in page:
        width = round(font(18).getlength(text.upper()))
        wanted[top // 2 : (top + 18) // 2, left // 2 : (left + width) // 2] = 1
    return wanted
