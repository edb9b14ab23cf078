"""Degrees of parallelism and places on the mesh."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.errors import ConfigError
from ironloom.parallel.environment import DistributedEnvironment
from ironloom.parallel.mesh import AXES, Degrees, Place, degrees_of, make_mesh
from ironloom.settings.dream.device import DeviceParameters
from spawned import run


def test_without_settings_every_process_has_a_copy() -> None:
    assert degrees_of(None, 3) == Degrees(dp_replicate=3)


@pytest.mark.parametrize(
    ("settings", "world", "expected"),
    [
        ({}, 4, Degrees(dp_replicate=4)),
        ({"dp_replicate": 1, "dp_shard": "auto"}, 4, Degrees(dp_shard=4)),
        ({"dp_shard": 2}, 4, Degrees(dp_replicate=2, dp_shard=2)),
        ({"dp_replicate": 1, "dp_shard": "auto", "tensor_parallel_size": 2}, 8, Degrees(dp_shard=4, tp=2)),
        ({"data_parallel_size": 4, "dp_shard": 2, "context_parallel_size": "auto"}, 8, Degrees(dp_replicate=2, dp_shard=2, cp=2)),
        ({"data_parallel_size": 4, "dp_replicate": 1, "dp_shard": "auto"}, 4, Degrees(dp_shard=4)),
        ({"dp_replicate": 2, "pipeline_parallel_size": 2}, 4, Degrees(pp=2, dp_replicate=2)),
    ],
)
def test_settings_become_degrees(settings: dict[str, Any], world: int, expected: Degrees, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    degrees = degrees_of(DeviceParameters(**settings), world)
    assert degrees == expected
    assert degrees.product == world


@pytest.mark.parametrize(
    ("settings", "world", "nearest"),
    [
        ({"dp_replicate": 3}, 4, "dp_replicate 4 would fit"),
        ({"dp_replicate": 1, "tensor_parallel_size": 4}, 6, "start 4 processes"),
        ({"dp_replicate": "auto", "tensor_parallel_size": 4}, 6, "start 4 processes"),
        ({"dp_replicate": 1, "dp_shard": 2, "tensor_parallel_size": 2}, 2, "start 4 processes"),
    ],
)
def test_degrees_that_do_not_fit_name_the_nearest_that_do(settings: dict[str, Any], world: int, nearest: str) -> None:
    with pytest.raises(ConfigError, match=nearest):
        degrees_of(DeviceParameters(**settings), world)


def test_places_are_those_of_the_mesh() -> None:
    degrees = Degrees(pp=2, dp_replicate=1, dp_shard=2, tp=2)

    def coordinates() -> Any:
        environment = DistributedEnvironment(use_cpu=True)
        environment.start()
        place = Place(environment.rank, environment.world_size, degrees, make_mesh(degrees, "cpu"))
        counted = tuple(place.coordinate(axis) for axis in AXES)
        named = (place.pp_rank, place.data_rank, place.cp_rank, place.tp_rank)
        return counted, tuple(place.mesh.get_local_rank(axis) for axis in AXES), named

    results = run(coordinates, 8)
    assert all(counted == real for counted, real, _ in results)
    assert len({counted for counted, _, _ in results}) == 8
    assert [named for *_, named in results][:4] == [(0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0), (0, 1, 0, 1)]
