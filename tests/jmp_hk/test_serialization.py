"""Configs survive a trip through JSON, and everything unexpected is refused."""

from collections.abc import Mapping
import dataclasses
import enum
import json
import math
import typing
from typing import Any

import numpy as np
import pytest

from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk import strict_json
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


@pytest.mark.parametrize(
  "text, message",
  [
    ("[" * 10**6, "nested more than 100 deep"),
    ('{"a":' * 200 + "1" + "}" * 200, "nested more than 100 deep"),
    ('{"a": NaN}', "NaN is no number"),
    ('{"a": -Infinity}', "-Infinity is no number"),
    ('{"a": 1e999}', "'1e999' is too large"),
    ('{"a": 1, "a": 2}', "key 'a' occurs twice"),
    ('{"a": 1', "no JSON"),
    (b'{"a": "\xff"}', "no text in UTF-8"),
    ("", "no JSON"),
  ],
)
def test_what_is_no_strict_json_is_refused(tmp_path, text, message):
  with pytest.raises(serialization.SerializationError, match=message):
    strict_json.parse(text)
  path = tmp_path / "some.json"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(serialization.SerializationError, match="some.json.*" + message):
    strict_json.read(path)


def test_python_spelling_of_numbers_that_are_not_finite_can_be_read():
  assert strict_json.parse("[Infinity]", non_finite=True) == [math.inf]


@dataclasses.dataclass(frozen=True)
class _Scalars:
  number: float = 1.0
  count: int = 1
  flag: bool = False
  name: str = ""
  by_count: Mapping[int, float] = dataclasses.field(default_factory=dict)
  best: serialization.Unbounded = 0.0


@pytest.mark.parametrize(
  "change",
  [
    {"number": True},
    {"number": "1.0"},
    {"number": "nan"},
    {"number": 10**400},
    {"number": [1.0]},
    {"count": 1.0},
    {"count": True},
    {"count": "1"},
    {"flag": 0},
    {"flag": "true"},
    {"name": 1},
    {"by_count": {"1.0": 1.0}},
    {"by_count": {"01": 1.0}},
    {"by_count": {"9" * 5000: 1.0}},
    {"by_count": {"²": 1.0}},
    {"by_count": {"1": math.inf}},
    {"by_count": [1]},
    {"best": "much"},
    {"best": True},
  ],
)
def test_no_type_stands_for_another(change):
  (name,) = change
  with pytest.raises(serialization.SerializationError) as error:
    serialization.from_json(_Scalars, change)
  assert f"_Scalars.{name}" in str(error.value)
  assert len(str(error.value)) < 500


def test_integers_are_numbers_and_what_may_be_infinite_is_read():
  read = serialization.from_json(_Scalars, {"number": 3, "best": "-inf"})
  assert read == _Scalars(number=3.0, best=-math.inf)
  assert type(read.number) is float


@dataclasses.dataclass(frozen=True)
class _Kept:
  store_checksum: typing.ClassVar[bool] = True
  sizes: tuple[int, ...] = ()
  scale: float = 0.1


def test_a_checksum_tells_damage_from_what_was_stored(tmp_path):
  path = tmp_path / "kept.json"
  kept = _Kept((3, 4), 1 / 3)
  serialization.save(kept, path)
  assert serialization.load(_Kept, path) == kept
  text = path.read_text()
  assert '"checksum": "crc32:' in text
  # Layout and order of keys do not matter.
  values = json.loads(text)
  path.write_text(json.dumps(dict(reversed(values.items()))))
  assert serialization.load(_Kept, path) == kept
  path.write_text(text.replace("[3, 4]", "[3, 5]"))
  with pytest.raises(
    serialization.SerializationError, match="kept.json.*delete its entry 'checksum'"
  ):
    serialization.load(_Kept, path)
  # As the message says, and as files of earlier versions are.
  path.write_text(json.dumps({"sizes": [3, 5], "scale": 1 / 3}))
  assert serialization.load(_Kept, path) == _Kept((3, 5), 1 / 3)


def test_what_no_version_stored_is_refused_without_a_traceback():
  for values in ({"diameter": {}}, {"diameter": "wide"}, {"type": ["ball"]}):
    with pytest.raises(serialization.SerializationError, match="_Drawing.frame"):
      serialization.from_json(_Drawing, {"frame": values})
