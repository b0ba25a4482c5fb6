"""Numbers and tables of the log."""

from absl.testing import absltest
from absl.testing import parameterized

from jmp_hk import text_table


class TextTableTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.0, "0"),
    (1.0, "1.00"),
    (58.637, "58.6"),
    (782.6, "783"),
    (1154.6, "1155"),
    (123456.7, "123457"),
    (9.996, "10.0"),
    (99.96, "100"),
    (0.9928, "0.993"),
    (0.9996, "1.00"),
    (-0.0421, "-0.0421"),
    (-9.996, "-10.0"),
    (0.0012345, "0.00123"),
    (0.00012345, "1.23e-04"),
    (float("nan"), "nan"),
    (float("-inf"), "-inf"),
  )
  def test_three_digits(self, value, expected):
    self.assertEqual(text_table.number(value), expected)

  def test_units(self):
    self.assertEqual(text_table.quantity(56.4248, "meV/Å", 4), "56.42 meV/Å")
    self.assertEqual(text_table.quantity(0.5, ""), "0.500")

  def test_text_is_at_the_left_and_numbers_at_the_right(self):
    rows = [["", "MAE"], ["energy", "1.5"], ["gap", "10.25"]]
    self.assertEqual(
      text_table.align(rows).splitlines(),
      ["          MAE", "energy    1.5", "gap     10.25"],
    )
    self.assertEqual(text_table.align([["only"]]), "only")


if __name__ == "__main__":
  absltest.main()
