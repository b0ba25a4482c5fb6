"""Hyper-parameters of GemNet-OC's modules, nested as the modules are."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar

from jmp_hk import ranges


@dataclasses.dataclass(frozen=True)
class BasesConfig:
  """Sizes of the radial and angular bases that all blocks share.

  Attributes:
    num_radial: number of Gaussians of the radial basis.
    num_spherical: number of Legendre orders of the angular bases.
    radial_channels: embedding width of radial bases ("rbf").
    circular_channels: embedding width of circular bases ("cbf").
    spherical_channels: embedding width of spherical bases ("sbf").
    radial_cutoff: distance in Å at which the radial envelope reaches zero, whatever the
      cutoff of the graphs.
    envelope_exponent: exponent p of the polynomial envelope.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "num_radial": ranges.Range(least=2, is_whole=True),
    "num_spherical": ranges.POSITIVE_COUNT,
    "radial_channels": ranges.POSITIVE_COUNT,
    "circular_channels": ranges.POSITIVE_COUNT,
    "spherical_channels": ranges.POSITIVE_COUNT,
    "radial_cutoff": ranges.POSITIVE,
    "envelope_exponent": ranges.POSITIVE_COUNT,
  }

  num_radial: int = 128
  num_spherical: int = 7
  radial_channels: int = 16
  circular_channels: int = 16
  spherical_channels: int = 32
  radial_cutoff: float = 12.0
  envelope_exponent: int = 5

  def __post_init__(self) -> None:
    ranges.check(self)


@dataclasses.dataclass(frozen=True)
class BilinearConfig:
  """Widths around the bilinear layer of one interaction.

  Attributes:
    in_channels: width of the messages that are summed over neighbors.
    out_channels: width after the bilinear layer.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "in_channels": ranges.POSITIVE_COUNT,
    "out_channels": ranges.POSITIVE_COUNT,
  }

  in_channels: int
  out_channels: int

  def __post_init__(self) -> None:
    ranges.check(self)


@dataclasses.dataclass(frozen=True)
class InteractionConfig:
  """Sizes of an interaction block.

  Attributes:
    triplet: the triplet interaction; also the atom→edge and edge→atom interactions.
    quadruplet: the quadruplet interaction.
    pair: the atom-pair interaction.
    num_before_skip: residual layers on the edges before the skip connection.
    num_after_skip: residual layers on the edges after it.
    num_concat: residual layers after the atoms are concatenated to the edges.
    num_atom_update: residual layers of the update of the atoms by their edges.
    num_atom_embedding: residual layers on the atoms.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "num_before_skip": ranges.COUNT,
    "num_after_skip": ranges.COUNT,
    "num_concat": ranges.COUNT,
    "num_atom_update": ranges.COUNT,
    "num_atom_embedding": ranges.COUNT,
  }

  triplet: BilinearConfig = BilinearConfig(64, 64)
  quadruplet: BilinearConfig = BilinearConfig(32, 32)
  pair: BilinearConfig = BilinearConfig(64, 64)
  num_before_skip: int = 2
  num_after_skip: int = 2
  num_concat: int = 1
  num_atom_update: int = 3
  num_atom_embedding: int = 2

  def __post_init__(self) -> None:
    ranges.check(self)


@dataclasses.dataclass(frozen=True)
class OutputConfig:
  """Sizes of the output blocks and of the layers that combine them.

  Attributes:
    num_before_skip: residual layers on the sums over edges, and on the edges themselves
      where direct vectors are wanted.
    num_after_skip: residual layers on the atoms after the skip connection.
    num_combined: residual layers on the concatenated features of all output blocks.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "num_before_skip": ranges.COUNT,
    "num_after_skip": ranges.COUNT,
    "num_combined": ranges.COUNT,
  }

  num_before_skip: int = 3
  num_after_skip: int = 3
  num_combined: int = 2

  def __post_init__(self) -> None:
    ranges.check(self)


_OLD_INTERACTION = (
  "num_before_skip",
  "num_after_skip",
  "num_concat",
  "num_atom_embedding",
)


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Nests the flat fields of configurations that versions before 0.2 stored.

  Args:
    flat: fields of the whole backbone, as JSON values.

  Returns:
    The fields of today.
  """
  data = dict(flat)
  pair = lambda name: {
    "in_channels": data.pop(f"{name}_in_channels"),
    "out_channels": data.pop(f"{name}_out_channels"),
  }
  names = [field.name for field in dataclasses.fields(BasesConfig)]
  num_atom = data.pop("num_atom")
  return {
    "bases": {name: data.pop(name) for name in names},
    "interaction": {
      "triplet": pair("triplet"),
      "quadruplet": pair("quad"),
      "pair": pair("pair"),
      **{name: data.pop(name) for name in _OLD_INTERACTION},
      "num_atom_update": num_atom,
    },
    "output": {
      "num_before_skip": num_atom,
      "num_after_skip": data.pop("num_output_after_atom"),
      "num_combined": data.pop("num_global_output"),
    },
    **data,
  }
