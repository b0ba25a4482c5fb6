"""Converted demo data for all tests of this folder."""

import pytest

from tests.experiments import demo_data


@pytest.fixture(name="datasets", scope="session")
def _datasets(tmp_path_factory):
  return demo_data.converted(tmp_path_factory.mktemp("converted"))
