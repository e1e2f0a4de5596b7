"""BiC-Net's spatio-temporal residual transformer over the regions of all frames of a video.

B batch, F frames, R regions of a frame, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from tvr_bench.models.layers.postnorm import LayerSpec, PostNormLayer, UnbiasedNorm

ALL_OBJECTS = "all_objects"
PER_REGION_TIME = "per_region_time"
OFFICIAL = "official_intra_frame"
_PLACES = (1, 2, 3)


class ResidualTransformer(nn.Module):
    """Layers of a spatial and a temporal block each, with residuals around and between them.

    With x the input of a layer, `s = LN(spatial(x) + x)` (residual 1), `t = LN(temporal(s) + s)`
    (residual 2), and the output `LN(t + x)` (residual 3). One norm serves all places and layers. A
    place without its residual has no norm either.
    """

    def __init__(self, spec: LayerSpec, layers: int, temporal: str, residual: str) -> None:
        """Take the number of layers, what the temporal block attends to, and which residuals.

        `temporal`: `all_objects` of the video, `per_region_time` (the same region of all frames) or
        `official_intra_frame` (the regions of the same frame once more, as the release does).
        `residual`: none, 1, 2, 3 or all.
        """
        super().__init__()
        self.temporal_form = temporal
        self.places = (
            _PLACES
            if residual == "all"
            else tuple(place for place in _PLACES if str(place) == residual)
        )
        self.spatial = nn.ModuleList(PostNormLayer(spec) for _ in range(layers))
        self.temporal = nn.ModuleList(PostNormLayer(spec) for _ in range(layers))
        self.norm = UnbiasedNorm(spec.width) if self.places else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return regions [B, F, R, D]; `mask` is bool [B, F], True for a frame that is there.

        Regions of missing frames come back too, seen by none of the others.
        """
        for spatial, temporal in zip(self.spatial, self.temporal, strict=True):
            seen = self._add(1, _within_frames(spatial, x), x)
            moved = self._add(2, self._over_time(temporal, seen, mask), seen)
            x = self._add(3, moved, x)
        return x

    def _add(self, place: int, new: Tensor, old: Tensor) -> Tensor:
        if self.norm is None or place not in self.places:
            return new
        added: Tensor = self.norm(new + old)
        return added

    def _over_time(self, block: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        frames, regions = x.shape[1:3]
        out: Tensor
        if self.temporal_form == OFFICIAL:
            return _within_frames(block, x)
        if self.temporal_form == PER_REGION_TIME:
            tokens = x.transpose(1, 2).flatten(0, 1)
            out = block(tokens, mask.repeat_interleave(regions, 0))
            return out.unflatten(0, (-1, regions)).transpose(1, 2)
        assert self.temporal_form == ALL_OBJECTS, self.temporal_form
        out = block(x.flatten(1, 2), mask.repeat_interleave(regions, 1))
        return out.unflatten(1, (frames, regions))


def _within_frames(block: nn.Module, x: Tensor) -> Tensor:
    """Return [B, F, R, D] with every region having seen those of its own frame, all of them."""
    out: Tensor = block(x.flatten(0, 1))
    return out.unflatten(0, x.shape[:2])
