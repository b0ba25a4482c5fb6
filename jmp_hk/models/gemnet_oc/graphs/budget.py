"""Static sizes of GemNet-OC's edges and tables."""

import dataclasses
from typing import ClassVar

from jmp_hk.graphs import budget as budget_lib


@dataclasses.dataclass(frozen=True)
class GemNetOCBudget(budget_lib.Budget):
  """Static sizes of a packed batch. Each includes its padding.

  Attributes:
    num_main: directed main edges after symmetrisation.
    num_a2a: atom-to-atom edges.
    num_a2ee2a: atom-to-edge and edge-to-atom edges.
    num_qint: intermediate edges of quadruplets.
    main_width: largest number of main edges into one atom.
    a2a_width: largest number of distinct sender atoms of the a2a edges into one atom
      (periodic images of a sender count once).
    a2ee2a_width: largest number of a2ee2a edges into one atom.
    qint_width: largest number of qint edges into one atom.
    num_cutoffs: cutoffs that each atom has of its own: one a graph where truncation is
      smooth, else none.
  """

  main_field: ClassVar[str] = "num_main"

  num_main: int = budget_lib.count(round_to=16)
  num_a2a: int = budget_lib.count(round_to=64)
  num_a2ee2a: int = budget_lib.count(round_to=16)
  # These edges are few and cheap, and run short where many molecules come in a row.
  num_qint: int = budget_lib.count(round_to=16, headroom=1.25)
  main_width: int = budget_lib.width(round_to=4)
  a2a_width: int = budget_lib.width(round_to=4)
  a2ee2a_width: int = budget_lib.width(round_to=1)
  qint_width: int = budget_lib.width(round_to=1)
  num_cutoffs: int = budget_lib.exact()
