"""What queries share their luck with, which intervals draw together: the data set knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvr_bench import config
from tvr_bench.datamodules.types import Clip, Query, Split
from tvr_bench.registry import dataset_class


@pytest.mark.parametrize(
    ("name", "ids", "units"),
    [
        ("msrvtt", ("video7010", "video7011"), ("video7010", "video7011")),
        ("didemo", ("a.mp4", "b.mp4"), ("a.mp4", "b.mp4")),
        ("activitynet", ("v_1", "v_2"), ("v_1", "v_2")),
        (
            "msvd",
            ("-4wsuPCjDBc_5_15", "-4wsuPCjDBc_20_30", "x_1_2"),
            ("-4wsuPCjDBc", "-4wsuPCjDBc", "x"),
        ),
        ("vatex", ("Ptf_2VRj_000010_000020", "b_000001_000011"), ("Ptf_2VRj", "b")),
        (
            "lsmdc",
            (
                "0001_American_Beauty_00.00.51.926-00.00.54.129",
                "0001_American_Beauty_01.00.51.926-01.00.54.129",
                "0002_As_Good_As_00.00.51.926-00.00.54.129",
            ),
            ("0001_American_Beauty", "0001_American_Beauty", "0002_As_Good_As"),
        ),
    ],
)
def test_clips_of_one_source_are_one_unit(
    name: str, ids: tuple[str, ...], units: tuple[str, ...]
) -> None:
    split = Split(tuple(Clip(i, Path(f"{i}.mp4")) for i in ids), ())
    found = dataset_class(name)(config.load([f"data={name}"])).units(split)
    assert [found[i] for i in ids] == list(units)


@pytest.mark.parametrize("name", ["youcook2", "csv"])
def test_parts_of_one_file_are_one_unit(name: str) -> None:
    clips = [Clip(f"xyz_{i}", Path("r/xyz.mp4"), i, i + 1) for i in range(3)]
    split = Split((*clips, Clip("other_0", Path("r/other.mp4"), 0, 1)), ())
    found = dataset_class(name)(config.load([f"data={name}"])).units(split)
    assert [found[f"xyz_{i}"] for i in range(3)] == ["xyz_0"] * 3
    assert found["other_0"] == "other_0"


def test_a_group_of_hard_negatives_is_one_unit_of_signvid() -> None:
    clips = tuple(Clip(f"s{i}", Path(f"s{i}.mp4")) for i in range(8))
    queries = tuple(Query(f"s{i}#0", "a", f"s{i}", "temporal", f"g{i // 4}") for i in range(8))
    found = dataset_class("signvid")(config.load([])).units(Split(clips, queries))
    assert [found[f"s{i}"] for i in range(8)] == ["g0"] * 4 + ["g1"] * 4
