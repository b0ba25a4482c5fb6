"""Kernels, traffic and arithmetic are read correctly from a compiled GPU program."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import gpu_compile
from benchmarks import hlo
from benchmarks import roofline
from data.command_line import program as program_lib

# In the form in which XLA prints programs for GPUs.
_OWN = "__gpu$xla.gpu.triton"
_TEXT = (pathlib.Path(__file__).parent / "step.hlo").read_text()


class ProgramTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.kernels = {k.kind: k for k in roofline.kernels(hlo.parse(_TEXT))}

  def test_what_is_no_kernel_is_left_out(self):
    kinds = {"fusion Loop", "fusion Input", "__cublas$lt$matmul", _OWN}
    self.assertEqual(set(self.kernels), kinds)

  def test_loops_count_as_often_as_they_run(self):
    self.assertEqual(self.kernels["fusion Loop"].times, 3)

  def test_operations_and_precision_of_products(self):
    inside, library = self.kernels["fusion Loop"], self.kernels["__cublas$lt$matmul"]
    self.assertEqual((inside.flops, inside.precision), (2 * 4 * 2 * 8, "f32"))
    self.assertEqual((library.flops, library.precision), (2 * 16 * 64 * 32, "bf16"))

  def test_kernels_of_our_own_multiply_by_their_last_operand(self):
    own = self.kernels[_OWN]
    self.assertEqual((own.flops, own.precision), (2 * 16 * 32 * 32, "bf16"))
    self.assertEqual(own.num_bytes, 2 * (4 * 16 * 32 + 32 * 32))

  def test_float32_without_a_precision_is_tensorfloat32(self):
    text = _TEXT.replace(", operand_precision={highest,highest}", "")
    kernels = {k.kind: k for k in roofline.kernels(hlo.parse(text))}
    self.assertEqual(kernels["fusion Loop"].precision, "tf32")

  def test_traffic_leaves_workspace_and_rows_that_are_not_gathered_out(self):
    library = self.kernels["__cublas$lt$matmul"]
    self.assertEqual(library.num_bytes, 2 * (16 * 32 + 32 * 64 + 16 * 64))
    # Four rows of float32, their indices, and what is written in bfloat16.
    gathered = self.kernels["fusion Input"]
    self.assertEqual(gathered.num_bytes, 4 * 4 * 8 + 4 * 4 + 2 * 4 * 8)

  def test_modules_are_told_apart_by_pass_but_not_by_number(self):
    self.assertEqual(
      [k.source for k in self.kernels.values()],
      [
        "backward backbone/int_blocks/quad_interaction",
        "forward backbone/out_blocks/seq_forces",
        "forward backbone/out_blocks/seq_energy2",
        "step/optimizer",
      ],
    )

  @parameterized.parameters(*roofline.CARDS)
  def test_a_step_lasts_as_long_as_its_slowest_resources(self, name):
    card = roofline.CARDS[name]
    moves = 8 * 10**12
    kernels = [
      roofline.Kernel("copy", "a", 2, moves, 0, "f32"),
      roofline.Kernel("dot", "b", 1, 0, int(card.rates["bf16"]), "bf16"),
      roofline.Kernel("tiny", "c", 10, 4, 0, "f32"),
    ]
    line = roofline.summary(kernels, card, card.rates["bf16"], "bf16")
    seconds = 2 * moves / (0.8 * card.bandwidth) + 1 + 10 * 2.5e-6
    self.assertAlmostEqual(line["roofline_ms"], 1e3 * seconds, delta=0.01)
    self.assertAlmostEqual(line["utilisation"], 1 / seconds, delta=1e-4)
    self.assertEqual((line["products"], line["others"]), (1, 12))
    self.assertEqual(line["others_gb"], 2 * moves / 1e9)

  def test_cards_say_how_large_and_how_fast_their_memory_is(self):
    found = {name: round(card.memory_gb) for name, card in roofline.CARDS.items()}
    self.assertEqual(found, {"a100": 85, "h100": 85, "h200": 151})
    self.assertAlmostEqual(roofline.CARDS["h100"].bandwidth / 1e12, 3.35, delta=0.01)

  def test_a_text_without_a_program_is_refused(self):
    with self.assertRaisesRegex(ValueError, "no ENTRY computation"):
      hlo.parse("HloModule nothing")


class CompileTest(absltest.TestCase):
  def test_a_step_is_compiled_for_a_card_that_is_not_there(self):
    try:
      gpu_compile.device_of(roofline.CARDS["h100"])
    except gpu_compile.MissingPluginError as error:
      self.skipTest(str(error))
    line = gpu_compile.run_case("tiny", "molecules", "bf16", "h100", structures=2)
    self.assertEqual(json.loads(json.dumps(line))["case"], "tiny/molecules/bf16")
    self.assertEqual(line["main_edges"], 420)
    self.assertGreater(line["temporary_mib"], 0)
    self.assertGreater(line["products"], 100)
    # Geometry and bases are exact, dense layers are not.
    self.assertEqual(set(line["products_tflop"]), {"bf16", "f32"})
    self.assertLen(line["largest"], 10)
    covered = line["products_tflop"]["bf16"] + line["products_tflop"]["f32"]
    self.assertGreaterEqual(covered, line["dense_tflop"])

  def test_a_missing_plugin_is_the_users_to_mend(self):
    program = gpu_compile.PROGRAM
    self.assertIsInstance(program, program_lib.Program)
    self.assertEqual(program.errors(), (gpu_compile.MissingPluginError,))


if __name__ == "__main__":
  absltest.main()
