"""What stands for the towers where a data set comes as feature files."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor, nn

from tvr_bench.errors import UserError
from tvr_bench.schema import FeaturesConfig


class FeatureBackbone(nn.Module):
    """No towers at all: batches hold the features, and the model that reads them has its own head.

    `region_dim`, `global_dim` and `text_dim` are the widths of what a batch holds; a joint space
    there is none, so `dim` is the text's.
    """

    image_parts = ()

    def __init__(self, cfg: FeaturesConfig) -> None:
        super().__init__()
        self.region_dim, self.global_dim = cfg.region_dim, cfg.global_dim
        self.dim = self.text_dim = cfg.text_dim

    def encode_text(self, ids: Tensor, mask: Tensor) -> NoReturn:
        """Raise UserError: there is no text tower."""
        raise _no_towers()

    def encode_frames(self, frames: Tensor) -> NoReturn:
        """Raise UserError: there is no image tower."""
        raise _no_towers()


def _no_towers() -> UserError:
    return UserError(
        "this model reads captions and frames, and backbone=features brings neither; choose "
        "another backbone, such as tiny"
    )
