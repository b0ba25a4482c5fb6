"""The text of `--help`: groups, order, defaults, allowed values, width."""

from absl import flags
from absl.testing import absltest
from absl.testing import parameterized

from data.command_line import flag_help

_DESCRIPTION = """Does one thing.

  python -m some.program --name=value --another_name=another_value \\
      --third=3

It does it well.
"""


@flag_help.group("Output")
def _define_output(values):
  flags.DEFINE_string("out", None, "DIR: Where it goes.", flag_values=values)


@flag_help.group("Data")
def _define(values=flags.FLAGS):
  flags.DEFINE_integer("zeta", 3, "How many.", lower_bound=1, flag_values=values)
  _define_output(values)
  flags.DEFINE_float(
    "alpha", 0.5, "How much, in Å.", 0.0, upper_bound=1.0, flag_values=values
  )
  flags.DEFINE_enum("kind", "a", ["a", "b"], "Which one.", flag_values=values)
  flags.DEFINE_bool("fast", True, "Whether to hurry.", flag_values=values)
  flags.DEFINE_multi_string("more", [], "KEY=VALUE: More.", flag_values=values)


def _values():
  values = flags.FlagValues()
  _define(values)
  return values


class GroupTest(absltest.TestCase):
  def test_the_inner_title_counts_and_titles_have_an_order(self):
    self.assertEqual(
      dict(flag_help.groups(_values())),
      {"Data": ["zeta", "alpha", "kind", "fast", "more"], "Output": ["out"]},
    )
    self.assertEqual(list(flag_help.groups(_values())), ["Data", "Output"])

  def test_a_flag_without_a_group_is_shown_last(self):
    values = _values()
    flags.DEFINE_integer("stray", 0, "Nobody's.", flag_values=values)
    flag_help.assign(values, flag_help.OTHER, values)
    self.assertEqual(list(flag_help.groups(values))[-1], flag_help.OTHER)
    self.assertEqual(flag_help.groups(values)[flag_help.OTHER], ["stray"])

  def test_a_program_may_have_no_flags(self):
    values = flags.FlagValues()
    self.assertEmpty(flag_help.groups(values))
    self.assertIn("Does one thing.", flag_help.text(_DESCRIPTION, values))


class TextTest(parameterized.TestCase):
  def test_flags_say_what_they_take(self):
    text = flag_help.text(_DESCRIPTION, _values(), ("out",), columns=80)
    for line in (
      "  --zeta=N  (at least 1, default: 3)",
      "  --alpha=X  (from 0 to 1, default: 0.5)",
      "  --kind=a|b  (default: a)",
      "  --[no]fast  (default: true)",
      "  --more=KEY=VALUE  (may be repeated)",
      "  --out=DIR  (required)",
      "      Where it goes.",
    ):
      self.assertIn(line, text.splitlines())
    self.assertNotIn("repeat this option", text)  # Absl's words.

  @parameterized.parameters(40, 60, 100)
  def test_lines_fit_the_terminal(self, columns):
    text = flag_help.text(_DESCRIPTION, _values(), columns=columns)
    self.assertLessEqual(max(map(len, text.splitlines())), columns)

  def test_examples_can_be_pasted(self):
    text = flag_help.text(_DESCRIPTION, _values(), columns=45)
    command = text.split("\n\n")[1]
    self.assertTrue(all(li.endswith(" \\") for li in command.splitlines()[:-1]))
    self.assertEqual(
      command.replace("\\\n", " ").split(),
      _DESCRIPTION.split("\n\n")[1].replace("\\\n", " ").split(),
    )

  def test_full_help_shows_the_flags_of_libraries(self):
    values = _values()
    flags.DEFINE_integer("foreign", 0, "A library's.", flag_values=values)
    self.assertNotIn("--foreign", flag_help.text(_DESCRIPTION, values))
    self.assertIn("--foreign", flag_help.text(_DESCRIPTION, values, is_full=True))


if __name__ == "__main__":
  absltest.main()
