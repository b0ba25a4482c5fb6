"""Many problems in few sentences."""

from absl.testing import absltest

from jmp_hk import problems


class SummariseTest(absltest.TestCase):
  def test_nothing_and_one(self):
    self.assertEqual(problems.summarise([]), "")
    self.assertEqual(problems.summarise([("a:0", "no energy")], 5), "a:0: no energy.")

  def test_one_kind_is_one_sentence_with_five_records(self):
    found = [(f"a:{i}", f"expected 3, found {i / 7}") for i in range(150)]
    self.assertEqual(
      problems.summarise(found, 200),
      "150 of 200 records: expected 3, found 0.0 (a:0, a:1, a:2, a:3, a:4, and 145 "
      "more).",
    )

  def test_kinds_differ_in_words_but_not_in_numbers(self):
    found = [
      ("a:0", "no energy"),
      ("a:1", "found [nan, 1.0] in row 3"),
      ("a:2", "found [1e-3, inf, -2.5] in row 17"),
    ]
    self.assertEqual(
      problems.summarise(found),
      "2 records: found [nan, 1.0] in row 3 (a:1, a:2). a:0: no energy.",
    )

  def test_many_kinds_are_counted(self):
    found = [(f"a:{i}", "x" * (i + 1)) for i in range(8)]
    self.assertRegex(problems.summarise(found), r"Records with other problems: 2\.$")


if __name__ == "__main__":
  absltest.main()
