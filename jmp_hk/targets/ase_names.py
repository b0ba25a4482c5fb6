"""What ASE's calculators call quantities that datasets have under other names."""

from collections.abc import Mapping

_OF_ATOMS: Mapping[str, str] = {
  "charge": "charges",
  "partial_charge": "charges",
  "partial_charges": "charges",
  "magmom": "magmoms",
  "magnetic_moment": "magmoms",
  "magnetic_moments": "magmoms",
}
_OF_STRUCTURES: Mapping[str, str] = {
  "dipole_moment": "dipole",
  "magnetic_moment": "magmom",
  "total_magnetization": "magmom",
}


def property_name(name: str, *, per_atom: bool) -> str:
  """ASE's name of a quantity, or the given one where ASE has none.

  Args:
    name: name of a target.
    per_atom: whether it has a row per atom.
  """
  return (_OF_ATOMS if per_atom else _OF_STRUCTURES).get(name.lower(), name)
