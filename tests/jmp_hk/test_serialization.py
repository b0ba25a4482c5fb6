"""Configs survive a trip through JSON, and everything unexpected is refused."""

from collections.abc import Mapping
import dataclasses
import enum
import math
from typing import Any

import numpy as np
import pytest

from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk.graphs import config as graph_config
from jmp_hk.targets import config as tasks


class _Colour(enum.Enum):
  RED = "red"
  BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class _Inner:
  size: int = 3
  rate: serialization.Unbounded = 0.5


@dataclasses.dataclass(frozen=True)
class _Outer:
  inner: _Inner
  colour: _Colour = _Colour.RED
  pairs: tuple[tuple[int, float], ...] = ()
  point: tuple[int, int] = (0, 0)
  clip: float | None = None
  references: Mapping[int, float] = dataclasses.field(default_factory=dict)
  free: Mapping[str, object] = dataclasses.field(default_factory=dict)
  nested: tuple[_Inner, ...] = ()


def _example() -> _Outer:
  return _Outer(
    inner=_Inner(size=7, rate=math.inf),
    colour=_Colour.BLUE,
    pairs=((1, 2.0), (3, 4.5)),
    point=(8, 9),
    clip=1.0,
    references={1: -13.6, 8: -2041.8396277138045},
    free={"files": ["a", "b"], "n": 3},
    nested=(_Inner(), _Inner(1)),
  )


def test_round_trip_through_a_file(tmp_path):
  # Enums, tuples, integer keys, None and infinity come back exactly.
  serialization.save(_example(), tmp_path / "deep" / "c.json")
  assert serialization.load(_Outer, tmp_path / "deep" / "c.json") == _example()
  # Nothing but the file itself is left.
  assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.json"]


@dataclasses.dataclass(frozen=True)
class _Shape(serialization.Polymorphic):
  registry = {}
  default_type = "ball"
  label: str = ""


@dataclasses.dataclass(frozen=True)
class _Ball(_Shape):
  radius: float = 1.0

  @classmethod
  def upgrade_json(cls, data: serialization.Json) -> serialization.Json:
    """Earlier versions stored the diameter."""
    if "diameter" in data:
      data["radius"] = data.pop("diameter") / 2
    if data.get("radius", 1.0) > 100:
      raise ValueError("balls used to be larger")
    return data


@dataclasses.dataclass(frozen=True)
class _Box(_Shape):
  edges: tuple[float, ...] = (1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class _Drawing:
  shapes: tuple[_Shape, ...] = ()
  frame: _Shape | None = None


for _name, _class in (("ball", _Ball), ("box", _Box)):
  _class.type_name = _name
  _Shape.registry[_name] = _class


def test_subclasses_are_stored_with_their_type():
  drawing = _Drawing((_Ball("a", 2.0), _Box("b")), _Box("c", (1.0, 2.0, 3.0)))
  written = serialization.to_json(drawing)
  assert written["shapes"][0] == {"type": "ball", "label": "a", "radius": 2.0}
  assert serialization.from_json(_Drawing, written) == drawing
  # Without a type it is the default one, or the class that was asked for.
  assert serialization.from_json(_Shape, {"radius": 3.0}) == _Ball("", 3.0)
  assert serialization.from_json(_Box, {"label": "d"}) == _Box("d")


def test_types_that_do_not_fit_are_named():
  @dataclasses.dataclass(frozen=True)
  class Disc(_Ball):
    pass

  with pytest.raises(serialization.SerializationError, match="Disc cannot be stored"):
    serialization.to_json(Disc())
  with pytest.raises(
    serialization.SerializationError, match=r"frame: There is no _Shape.*'cone'.*'ball'"
  ):
    serialization.from_json(_Drawing, {"frame": {"type": "cone"}})
  with pytest.raises(serialization.SerializationError, match="should be a _Box"):
    serialization.from_json(_Box, {"type": "ball"})
  with pytest.raises(serialization.SerializationError, match="_Drawing.frame"):
    serialization.from_json(_Drawing, {"frame": {"type": "ball", "edges": []}})


def test_earlier_versions_are_upgraded():
  read = serialization.from_json(_Drawing, {"frame": {"diameter": 3.0}})
  assert read == _Drawing(frame=_Ball("", 1.5))
  with pytest.raises(
    serialization.SerializationError, match="_Drawing.frame: balls used to be larger"
  ):
    serialization.from_json(_Drawing, {"frame": {"diameter": 300.0}})


def test_project_dataclasses_round_trip():
  info = dataset_info.DatasetInfo(
    name="x",
    graph=graph_config.GraphConfig(max_neighbors_by_size=((200, 10), (300, 5))),
    num_structures={"train": 3},
    elements=(1, 8),
    size_histogram={3: 3},
    energy_references={1: -1.5},
    energy_scale=2.0,
    force_scale=0.5,
    targets={"gap": dataset_info.TargetStatistics("eV", 1.0, 2.0)},
    provenance={"sha": {"a": "b"}},
  )
  task = tasks.pretraining_task("x")
  for value in (info, task):
    assert serialization.from_json(type(value), serialization.to_json(value)) == value


def test_numpy_values_become_plain():
  written = serialization.to_json({"a": np.float32(0.5), "b": np.arange(3)})
  assert written == {"a": 0.5, "b": [0, 1, 2]}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"colr": "red"}, "no 'colr'"),
    ({"inner": {"sise": 1}}, r"_Outer.inner has no 'sise'"),
    ({"inner": {"size": 1.5}}, r"_Outer.inner.size should be of type int"),
    ({"inner": {"size": True}}, "an integer"),
    ({"inner": {"rate": "fast"}}, "a number"),
    ({"colour": "green"}, "one of"),
    ({"point": [1]}, "a list of 2"),
    ({"pairs": 3}, "a list"),
    ({"references": {"H": 1.0}}, "of type int"),
    ({"clip": "x"}, "a number"),
  ],
)
def test_wrong_values_are_named(change: dict[str, Any], message: str):
  data = serialization.to_json(_example()) | change
  with pytest.raises(serialization.SerializationError, match=message):
    serialization.from_json(_Outer, data)


def test_missing_key_and_broken_file(tmp_path):
  with pytest.raises(serialization.SerializationError, match="lacks 'inner'"):
    serialization.from_json(_Outer, {})
  (tmp_path / "x.json").write_text("{")
  with pytest.raises(serialization.SerializationError, match="x.json"):
    serialization.load(_Outer, tmp_path / "x.json")


def test_differences_name_the_place():
  old = serialization.to_json(_example())
  new = serialization.to_json(
    dataclasses.replace(_example(), clip=2.0, inner=_Inner(8))
  )
  assert serialization.differences(old, old) == []
  assert serialization.differences(old, new) == [
    "inner.size: 7 → 8",
    "inner.rate: 'inf' → 0.5",
    "clip: 1.0 → 2.0",
  ]
