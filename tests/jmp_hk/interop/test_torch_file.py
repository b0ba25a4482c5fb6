"""Reading of what torch.save writes, and of what it never should."""

import collections
import os
import pathlib
import pickle
import subprocess
import tempfile
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import chex
import numpy as np

from jmp_hk.interop import inert
from jmp_hk.interop import torch_file
from tests.jmp_hk.interop import torch_save


class _Malicious:
  """Runs a command when it is unpickled the usual way."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return os.system, (f"touch {self._path}",)


class TorchFileTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.path = self.directory / "file.pt"

  def _read(self, root, **options):
    torch_save.save(root, self.path, **options)
    with torch_file.TorchFile(self.path) as file:
      return {name: file.read(tensor) for name, tensor in file.root.items()}

  @parameterized.parameters("float64", "float32", "float16", "int64", "bool")
  def test_types_of_numbers(self, kind):
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(kind)
    result = self._read({"x": torch_save.Tensor(array)})
    chex.assert_trees_all_equal(result["x"], array)
    self.assertEqual(result["x"].dtype, array.dtype)

  def test_bfloat16_becomes_float32(self):
    values = np.array([1.0, -2.5, 3e38, 0.0], np.float32)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    result = self._read({"x": torch_save.Tensor(stored, "bfloat16")})
    expected = (stored.astype(np.uint32) << 16).view(np.float32)
    chex.assert_trees_all_equal(result["x"], expected)
    self.assertEqual(result["x"].dtype, np.float32)

  def test_views_share_a_storage_and_keep_their_strides(self):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {
      "whole": array,
      "transposed": array.T,
      "part": array[1:3, ::2],
      "column": array[:, 4],
    }
    root = {name: torch_save.Tensor(view) for name, view in views.items()}
    result = self._read(root)
    chex.assert_trees_all_equal(result, views)
    with zipfile.ZipFile(self.path) as archive:
      self.assertLen([n for n in archive.namelist() if "/data/" in n], 1)

  def test_scalars_and_empty_tensors(self):
    arrays = {
      "scalar": np.array(2.5, np.float32),
      "empty": np.zeros((0, 3), np.float32),
    }
    result = self._read({name: torch_save.Tensor(x) for name, x in arrays.items()})
    chex.assert_trees_all_equal(result, arrays)

  @parameterized.parameters("little", "big", "")
  def test_byte_order(self, byteorder):
    array = np.array([1.5, -2.0], np.float32)
    result = self._read({"x": torch_save.Tensor(array)}, byteorder=byteorder)
    chex.assert_trees_all_equal(result["x"], array)

  def test_tensors_of_untyped_storages(self):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = self._read({"x": torch_save.Tensor(array[:, 1])}, untyped=True)
    chex.assert_trees_all_equal(result["x"], array[:, 1])

  def test_parameters_are_their_tensors(self):
    array = np.ones(3, np.float32)
    result = self._read({"x": torch_save.parameter(array)})
    chex.assert_trees_all_equal(result["x"], array)

  def test_unknown_classes_are_inert(self):
    config = torch_save.Object(
      torch_save.Global("jmp.tasks.pretrain", "PretrainConfig"),
      (1, "a"),
      {"nested": torch_save.Object(torch_save.Global("pathlib", "PosixPath"), ("x",))},
    )
    state = collections.OrderedDict(x=torch_save.Tensor(np.ones(1, np.float32)))
    torch_save.save({"hyper_parameters": config, "state_dict": state}, self.path)
    with torch_file.TorchFile(self.path) as file:
      value = file.root["hyper_parameters"]
      self.assertIsInstance(value, inert.Inert)
      self.assertEqual(value.origin, "jmp.tasks.pretrain.PretrainConfig")
      self.assertIn("x", file.root["state_dict"])

  def test_a_file_that_is_no_archive_says_so(self):
    self.path.write_bytes(b"not a zip archive")
    with self.assertRaisesRegex(torch_file.TorchFileError, "not a zip archive"):
      torch_file.TorchFile(self.path)

  def test_a_truncated_file_says_so(self):
    torch_save.save({"x": torch_save.Tensor(np.ones(1000, np.float32))}, self.path)
    self.path.write_bytes(self.path.read_bytes()[:2000])
    with self.assertRaisesRegex(torch_file.TorchFileError, "truncated"):
      torch_file.TorchFile(self.path)

  def test_another_archive_says_so(self):
    np.savez(self.directory / "other.npz", x=np.ones(3))
    with self.assertRaisesRegex(
      torch_file.TorchFileError, "torch.save did not write it"
    ):
      torch_file.TorchFile(self.directory / "other.npz")

  def test_a_corrupt_storage_says_so(self):
    array = np.full(1000, 1.2345, np.float32)
    torch_save.save({"x": torch_save.Tensor(array)}, self.path)
    data = bytearray(self.path.read_bytes())
    where = data.index(array.tobytes()) + 100
    data[where] ^= 0xFF
    self.path.write_bytes(bytes(data))
    corrupt = self.assertRaisesRegex(torch_file.TorchFileError, "CRC")
    with torch_file.TorchFile(self.path) as file, corrupt:
      file.read(file.root["x"])

  @parameterized.parameters(
    ((0, (5,), (1,)),),
    ((2, (3,), (1,)),),
    ((0, (2, 2), (3, 1)),),
    ((-1, (2,), (1,)),),
    ((0, (2,), (-1,)),),
    ((0, (2,), (1, 1)),),
  )
  def test_a_tensor_outside_its_storage_is_an_error(self, view):
    offset, shape, strides = view
    storage = ("storage", torch_save.Global("torch", "FloatStorage"), "0", "cpu", 4)

    class Pickler(torch_save._Pickler):  # pylint: disable=protected-access
      def persistent_id(self, obj):
        return storage if obj == "the storage" else None

    with zipfile.ZipFile(self.path, "w") as archive:
      with archive.open("archive/data.pkl", "w") as entry:
        Pickler(entry, untyped=False).dump(
          {
            "x": torch_save.Object(
              torch_save.Global("torch._utils", "_rebuild_tensor_v2"),
              ("the storage", offset, shape, strides, False, {}),
            )
          }
        )
      archive.writestr("archive/data/0", np.zeros(4, np.float32).tobytes())
    with self.assertRaisesRegex(torch_file.TorchFileError, "storage|shape"):
      torch_file.TorchFile(self.path)


class SecurityTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.mark = self.directory / "ran"

  def _open(self, data):
    path = self.directory / "file.pt"
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", data)
    with torch_file.TorchFile(path) as file:
      return file.root

  @parameterized.parameters(range(2, pickle.HIGHEST_PROTOCOL + 1))
  def test_a_pickle_made_to_run_a_command_has_no_effect(self, protocol):
    data = pickle.dumps({"state_dict": _Malicious(self.mark)}, protocol)
    # The usual way runs it; the pickle is a real one.
    pickle.loads(data)
    self.assertTrue(self.mark.exists())
    self.mark.unlink()
    root = self._open(data)
    self.assertFalse(self.mark.exists())
    self.assertIsInstance(root["state_dict"], inert.Inert)

  @parameterized.parameters(
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("subprocess", "check_output"),
    ("jmp_hk.interop.torch_file", "np"),
    ("torch.storage", "_load_from_bytes"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("collections", "OrderedDict.fromkeys"),
  )
  def test_no_name_outside_the_list_is_reached(self, module, name):
    data = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X\x01\x00\x00\x00x\x85R."
    self.assertIsInstance(self._open(data), inert.Inert)

  def test_no_module_is_imported(self):
    (self.directory / "evil_module.py").write_text(f"open({str(self.mark)!r}, 'w')\n")
    program = (
      "import sys; sys.path.insert(0, sys.argv[1])\n"
      "from jmp_hk.interop import restricted_pickle\n"
      "restricted_pickle.loads(b'cevil_module\\nx\\n.', {})\n"
      "assert 'evil_module' not in sys.modules\n"
    )
    subprocess.run(
      [os.sys.executable, "-c", program, str(self.directory)],
      check=True,
      cwd=pathlib.Path(__file__).parents[3],
    )
    self.assertFalse(self.mark.exists())

  @parameterized.parameters(
    b"N}X\x05\x00\x00\x00_callNs\x86b.",  # A state with slots.
    b"}X\x05\x00\x00\x00_callNsb.",  # A state with attributes.
  )
  def test_a_pickle_cannot_change_a_known_function(self, change):
    with self.assertRaisesRegex(torch_file.TorchFileError, "change"):
      self._open(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + change)

  def test_a_pickle_cannot_change_a_type_of_numbers(self):
    with self.assertRaises(torch_file.TorchFileError):
      self._open(
        b"\x80\x02ctorch\nFloatStorage\n}X\x04\x00\x00\x00nameX\x01\x00\x00\x00ssb."
      )

  def test_attributes_of_dictionaries_are_dropped(self):
    root = self._open(
      b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsNsb."
    )
    self.assertEqual(list(root.items()), [])

  def test_objects_take_every_operation(self):
    # A list-like, dictionary-like and set-like object with a state.
    data = b"\x80\x04\x8c\x01a\x8c\x01b\x93)R(K\x01K\x02e(K\x01K\x02u(K\x03\x90}b."
    self.assertIsInstance(self._open(data), inert.Inert)


if __name__ == "__main__":
  absltest.main()
