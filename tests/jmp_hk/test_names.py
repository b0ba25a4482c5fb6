"""Names that become parts of paths."""

import pytest

from jmp_hk import names
from jmp_hk.targets import config as tasks_lib


@pytest.mark.parametrize(
  "name", ["train", "val_id", "matbench_mp_e_form", "1", "R_2_Abs", "a.b+c-d", "Größe"]
)
def test_usual_names(name):
  assert names.find_problem(name) == ""
  names.check(name, "it")


@pytest.mark.parametrize(
  "name",
  ["", ".", "..", "../evil", "a/b", "a\\b", "/etc", ".hidden", "-flag", "a b", "a*"]
  + ["a[0]", "a\n", "a\0", "a:b", "a=b", "a,b", "~", "a" * 101],
)
def test_names_that_lead_elsewhere(name):
  with pytest.raises(names.InvalidNameError, match="^--split cannot .* expected up to"):
    names.check(name, "--split")
  with pytest.raises(ValueError, match="The name of a task cannot be part"):
    tasks_lib.pretraining_task(name)
