"""Structures as pymatgen writes them in JSON (`Structure.as_dict`)."""

from collections.abc import Mapping
from typing import Any

from ase import data as ase_data
import numpy as np

from jmp_hk import structure as structure_lib

_NUMBERS = dict(ase_data.atomic_numbers) | {"D": 1, "T": 1}  # heavy hydrogen
del _NUMBERS["X"]
_MOST_SHOWN = 80  # Letters of a value in a message.


class CrystalError(ValueError):
  """A dictionary is not an ordered crystal; the message says why."""


def parse(
  crystal: Mapping[str, Any], record_id: str, targets: Mapping[str, np.ndarray]
) -> structure_lib.Structure:
  """Builds a periodic structure, all tags 2 and nothing fixed, as JMP does.

  Args:
    crystal: lattice.matrix [3, 3], Å; sites with species, and xyz (Å) or abc
      (fractional). The element is that of the species: labels are free text.
    record_id: file and position of the record.
    targets: labels by name.

  Raises:
    CrystalError: something is missing, or a site is shared by several species.
  """
  try:
    cell = numbers(crystal["lattice"]["matrix"], "lattice.matrix")
    sites = crystal["sites"]
    elements = [_atomic_number(site, i) for i, site in enumerate(sites)]
    if all("xyz" in site for site in sites):
      positions = numbers([site["xyz"] for site in sites], "xyz")
    else:
      positions = numbers([site["abc"] for site in sites], "abc") @ cell
    pbc = np.array(crystal["lattice"].get("pbc", (True, True, True)))
  except (KeyError, TypeError, IndexError, AttributeError) as error:
    raise CrystalError(
      f"not a pymatgen Structure dictionary ({type(error).__name__}: {error})"
    ) from error
  except ValueError as error:
    raise CrystalError(str(error)) from error
  if pbc.dtype != bool:
    raise CrystalError(f"expected three of true and false in lattice.pbc, found {pbc}")
  return structure_lib.Structure(
    positions=positions,
    atomic_numbers=np.array(elements, np.int32),
    cell=cell,
    pbc=pbc,
    tags=np.full(len(elements), structure_lib.TAG_ADSORBATE, np.int32),
    fixed=np.zeros(len(elements), bool),
    targets=dict(targets),
    record_id=record_id,
  )


def numbers(value: Any, name: str) -> np.ndarray:
  """Numbers of JSON as an array of float64; null, which stands for NaN, becomes NaN.

  Args:
    value: a number or nested lists of them.
    name: what they are called in messages.

  Raises:
    CrystalError: they are texts or something else, or lists of unequal lengths.
  """
  try:
    array = np.array(value)
    kinds = {type(item) for item in array.flat} if array.dtype == object else set()
    if kinds and kinds <= {int, float, type(None)}:
      array = array.astype(np.float64)
  except (ValueError, TypeError, OverflowError) as error:
    raise CrystalError(f"expected numbers as {name}: {error}") from error
  if array.dtype.kind not in "iuf":
    raise CrystalError(f"expected numbers as {name}, found {str(value)[:_MOST_SHOWN]}")
  return array.astype(np.float64)


def number(value: Any, name: str) -> np.ndarray:
  """One number of JSON as an array without directions.

  Raises:
    CrystalError: it is something else.
  """
  found = numbers(value, name)
  if found.shape:
    raise CrystalError(f"expected a number as {name}, found {str(value)[:_MOST_SHOWN]}")
  return found


def _atomic_number(site: Mapping[str, Any], index: int) -> int:
  species = site["species"]
  if len(species) != 1 or species[0].get("occu", 1) != 1:
    raise CrystalError(
      f"site {index} is disordered: expected one species with occupation 1, found "
      f"{species}"
    )
  symbol = species[0]["element"]
  if symbol not in _NUMBERS:
    raise CrystalError(f"site {index} has the unknown element {symbol!r}")
  return _NUMBERS[symbol]
