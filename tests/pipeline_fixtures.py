import pytest

from tests.jmp_hk.pipeline import corpus


@pytest.fixture(scope="session")
def corpus_directory(tmp_path_factory):
  directory = tmp_path_factory.mktemp("corpus")
  corpus.make(directory)
  return directory


@pytest.fixture(scope="session")
def datasets(corpus_directory):
  return corpus.open_all(corpus_directory)
