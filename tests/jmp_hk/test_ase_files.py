"""Structures from files, folders and tables."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import ase.build
import ase.db
import ase.io

from jmp_hk import ase_files
from jmp_hk import ase_labels

_NAMES = ("H2O", "CH4", "NH3")


class FilesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def _molecules(self):
    result = [ase.build.molecule(name) for name in _NAMES]
    for atoms, name in zip(result, _NAMES, strict=True):
      atoms.info["name"] = name
    return result

  def _structure_files(self):
    for atoms, name in zip(self._molecules(), _NAMES, strict=True):
      ase.io.write(self.folder / f"{name}.xyz", atoms)

  def _table(self, text, name="props.csv"):
    (self.folder / name).write_text(text)
    return self.folder / name

  def test_a_file(self):
    path = self.folder / "mine.extxyz"
    ase.io.write(path, self._molecules())
    frames = ase_files.read_all(path)
    self.assertEqual(
      [frame.name for frame in frames], [f"mine.extxyz:{i}" for i in range(3)]
    )
    self.assertEqual(frames[1].atoms.get_chemical_formula(), "CH4")

  def test_a_folder_and_wildcards(self):
    (self.folder / "a").mkdir()
    ase.io.write(self.folder / "a" / "x.xyz", self._molecules()[:2])
    ase.io.write(self.folder / "b.traj", self._molecules()[2])
    (self.folder / ".hidden").write_text("nothing")
    names = [frame.name for frame in ase_files.read_all(self.folder)]
    self.assertEqual(names, ["a/x.xyz:0", "a/x.xyz:1", "b.traj:0"])
    [frame] = ase_files.read_all(self.folder / "*.traj")
    self.assertEqual(frame.atoms.get_chemical_formula(), "H3N")

  def test_a_database_keeps_its_pairs(self):
    path = self.folder / "mine.db"
    with ase.db.connect(path) as database:
      for index, atoms in enumerate(self._molecules()):
        database.write(atoms, gap=0.5 * index, data={"dos": [1.0, 2.0]})
    frames = ase_files.read_all(path)
    values = [ase_labels.find(frame.atoms, "gap") for frame in frames]
    self.assertEqual(values, [0.0, 0.5, 1.0])
    self.assertLen(ase_labels.find(frames[0].atoms, "dos"), 2)

  @parameterized.parameters("id,gap,note\n", "gap,ID,note\n")
  def test_a_table_beside_files_of_its_identifiers(self, header):
    self._structure_files()
    rows = [("NH3", "1.5", "good"), ("H2O", "", ""), ("CH4", "2", "bad")]
    order = [header.strip().lower().split(",").index(c) for c in ("id", "gap", "note")]
    lines = []
    for row in rows:
      cells = [""] * 3
      for place, cell in zip(order, row, strict=True):
        cells[place] = cell
      lines.append(",".join(cells))
    path = self._table(header + "\n".join(lines))
    frames = ase_files.read_all(path)
    self.assertEqual(
      [frame.name for frame in frames], [f"props.csv:{row[0]}" for row in rows]
    )
    values = [ase_labels.find(frame.atoms, "gap") for frame in frames]
    self.assertEqual(values, [1.5, None, 2.0])
    self.assertEqual(frames[0].atoms.get_chemical_formula(), "H3N")
    # The folder stands for its table.
    self.assertEqual(ase_files.find(self.folder), [path])
    self.assertLen(ase_files.files_of(path), 4)

  def test_a_table_without_a_header_has_values(self):
    self._structure_files()
    path = self._table("H2O,1.0\nCH4,2.0\nNH3,3.0\n", "id_prop.csv")
    survey = ase_labels.survey(frame.atoms for frame in ase_files.read_all(path))
    self.assertEqual(ase_labels.choose_keys(survey, ["gap"]), {"gap": "value"})

  def test_a_table_beside_one_file_of_all(self):
    ase.io.write(self.folder / "all.extxyz", self._molecules())
    path = self._table("name,gap\nNH3,3\nH2O,1\n")
    with self.assertLogs("jmp_hk", "WARNING") as logs:
      frames = ase_files.read_all(path)
    self.assertRegex(logs.output[0], "1 structures of .*all.extxyz have no row in")
    found = {f.name: ase_labels.find(f.atoms, "gap") for f in frames}
    self.assertEqual(found, {"props.csv:H2O": 1.0, "props.csv:NH3": 3.0})

  @parameterized.named_parameters(
    ("no_column", "H2O\n", "must be a CSV table of an identifier"),
    ("empty", "", "its first row is missing"),
    ("only_a_header", "id,gap\n", "has a header but no rows"),
    ("twice", "id,gap\nH2O,1\nH2O,2\n", "row 3: expected a unique id, but 'H2O'"),
    ("ragged", "id,gap\nH2O,1,2\n", "row 2: expected 2 columns, found 3"),
    ("missing", "id,gap\nH2O,1\nPH3,2\n", "PH3: expected one file .* found none"),
    ("all_missing", "id,gap\nPH3,2\n", r"e\.g\. PH3\.cif, or one file of structures"),
  )
  def test_wrong_tables(self, text, message):
    self._structure_files()
    path = self._table(text)
    with self.assertRaisesRegex(ase_files.FileError, message):
      ase_files.read_all(path)

  def test_what_cannot_be_read(self):
    with self.assertRaisesRegex(ase_files.FileError, "nowhere.xyz does not exist"):
      ase_files.read_all(self.folder / "nowhere.xyz")
    with self.assertRaisesRegex(ase_files.FileError, "holds no file called"):
      ase_files.read_all(self.folder)
    path = self.folder / "notes.txt"
    path.write_text("hello")
    with self.assertRaisesRegex(ase_files.FileError, "name the files to read"):
      ase_files.read_all(self.folder)
    for name in ("a.csv", "b.csv"):
      self._table("id,gap\nx,1\n", name)
    with self.assertRaisesRegex(ase_files.FileError, "several tables"):
      ase_files.read_all(self.folder)


if __name__ == "__main__":
  absltest.main()
