"""GemNet-OC's graphs with default options, for tests that need some graphs."""

from jmp_hk.models.gemnet_oc.graphs import budget
from jmp_hk.models.gemnet_oc.graphs import builder
from jmp_hk.models.gemnet_oc.graphs import choice

Budget = budget.GemNetOCBudget
BUILDER = builder.GemNetOCGraphBuilder()
UNION = builder.GemNetOCGraphBuilder(options=choice.GraphOptions(symmetrize="union"))
