"""The look of pictures: plain ticks, and settings that stay as they were."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import hypothesis
from hypothesis import strategies as st
import matplotlib as mpl

from jmp_hk import figures


class FiguresTest(parameterized.TestCase):
  @parameterized.parameters(
    (31.0, 290.0, [50.0, 100.0, 200.0]),
    (0.5, 2000.0, [1.0, 10.0, 100.0, 1000.0]),
    (82.0, 150.0, [100.0, 120.0, 140.0]),
    (9.0, 80.0, [10.0, 20.0, 50.0]),
  )
  def test_ticks_of_logarithmic_axes_are_round(self, low, high, expected):
    self.assertEqual(figures.log_ticks(low, high), expected)

  @hypothesis.given(low=st.floats(1e-6, 1e6), ratio=st.floats(1.01, 1e9))
  @hypothesis.settings(max_examples=200, deadline=None)
  def test_there_are_few_ticks_but_some(self, low, ratio):
    ticks = figures.log_ticks(low, low * ratio)
    self.assertBetween(len(ticks), 2, 8)
    self.assertEqual(ticks, sorted(set(ticks)))

  def test_labels_of_ticks_are_plain_numbers(self):
    with figures.style():
      figure, [axis, other] = figures.panels(2)
      axis.plot([1, 2], [0.21, 0.66])
      figures.logarithmic(axis, [0.21, 0.66])
      other.plot([0, 1], [-12345.6, -12345.5])
      figures.plain_ticks(other.yaxis)
      figure.canvas.draw()
    labels = [
      label.get_text() for one in (axis, other) for label in one.get_yticklabels()
    ]
    self.assertNotEmpty(labels)
    for label in labels:
      self.assertRegex(label, r"^[−-]?\d+(\.\d+)?$")
    self.assertEqual(other.yaxis.get_offset_text().get_text(), "")

  def test_settings_of_the_caller_stay(self):
    before = dict(mpl.rcParams)
    folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    with figures.style():
      figure, axes = figures.panels(4)
      self.assertLen(axes, 4)
      figures.save(figure, folder / "empty.png")
    self.assertEqual(dict(mpl.rcParams), before)
    self.assertStartsWith((folder / "empty.png").read_bytes(), b"\x89PNG")

  def test_few_points_are_marked(self):
    self.assertEqual(figures.marker(3), "o")
    self.assertEqual(figures.marker(500), "")


if __name__ == "__main__":
  absltest.main()
