"""What the graphs of several datasets have in common."""

from absl.testing import absltest
from absl.testing import parameterized

from jmp_hk.graphs import config as graph_config

_DEFAULT = graph_config.GraphConfig()
_SMOOTH = graph_config.Truncation.SMOOTH
_NEAR = graph_config.GraphConfig(cutoff=8.0, truncation=_SMOOTH)
_FEW = graph_config.GraphConfig(cutoff=9.0, max_neighbors=20, truncation=_SMOOTH)


class CommonTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("one", [_NEAR], _NEAR),
    ("equal", [_NEAR, _NEAR], _NEAR),
    ("truncation_only", [_NEAR, _FEW], graph_config.GraphConfig(truncation=_SMOOTH)),
    ("nothing", [_FEW, _DEFAULT], _DEFAULT),
    ("none", [], _DEFAULT),
  )
  def test_settings_are_kept_where_all_agree(self, configs, expected):
    self.assertEqual(graph_config.common(iter(configs)), expected)


if __name__ == "__main__":
  absltest.main()
