"""The best videos of each text where the score is a dot product: in the order of the ranks.

N texts, V videos that could be read, U different ones among them, D width, k items of each list,
Q queries, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tvr_bench.evaluation.exact import exact_scores, first_alike
from tvr_bench.evaluation.search import Gallery
from tvr_bench.evaluation.top import Lists, best_of_candidates

_WIDER = 4  # times as many candidates, where the last ones tie in float32


def best_of_vectors(text: Tensor, video: Tensor, columns: Tensor, k: int) -> Lists:
    """Return the k best videos of each text by `exact_scores`, int32 [N, k], -1 for none.

    `text` [N, D] and `video` [V, D] are float32, `columns` int64 [V] where the videos stand in the
    gallery, rising. The search runs on the CPU, and equal vectors are searched once.
    """
    text, video = text.cpu(), video.cpu()
    queries, query = torch.unique(first_alike(text), return_inverse=True)
    different, kind = torch.unique(first_alike(video), return_inverse=True)
    members = _members(kind, k)
    gallery, asked = Gallery.build(video[different]), text[queries]
    lists = torch.empty(len(asked), k, dtype=torch.int32)
    rows, width = torch.arange(len(asked)), k + 1
    while len(rows):
        scores, items = gallery.positions(asked[rows], width)
        width = items.shape[1]
        more = torch.zeros(len(rows), dtype=torch.bool)
        if width < len(different):  # float32 cannot say which of the last ones are the best
            more = scores[:, k - 1] == scores[:, -1]
        done = torch.nonzero(~more).flatten()
        values = _exactly(gallery.vectors, asked[rows[done]], scores[done], items[done])
        found = members[items[done]]  # [Q, C, members]
        values = values[:, :, None].expand_as(found)
        places = torch.where(found < 0, -1, columns[found])
        best = best_of_candidates(places.flatten(1).numpy(), values.flatten(1).numpy(), k)
        lists[rows[done]] = torch.from_numpy(best)
        rows, width = rows[more], _WIDER * width
    return lists[query].numpy()


def _members(kind: Tensor, k: int) -> Tensor:
    """Return the first k videos of each kind, int64 [U, at most k], -1 where it has fewer."""
    order = kind.argsort(stable=True)
    place = torch.arange(len(kind)) - torch.searchsorted(kind[order], kind[order])
    members = torch.full((int(kind.max()) + 1, min(k, int(place.max()) + 1)), -1)
    first = place < k
    members[kind[order][first], place[first]] = order[first]
    return members


def _exactly(video: Tensor, text: Tensor, scores: Tensor, items: Tensor) -> Tensor:
    """Return scores [Q, C] in float64, made again for queries of which some are equal."""
    values = scores.double()
    tied = torch.nonzero((scores[:, 1:] == scores[:, :-1]).any(1)).flatten()
    row = tied.repeat_interleave(items.shape[1])
    made = exact_scores(text, video, row, items[tied].flatten())
    values[tied] = made.view(len(tied), items.shape[1])
    return values
