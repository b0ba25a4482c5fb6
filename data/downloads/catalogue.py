"""Which files there are: addresses, sizes, checksums, licences, and what comes next.

Sizes and checksums are those that the publishers state, or that others who fetched the
files have published. No address could be opened where this table was written; what
changes at a publisher is mended here.
"""

from collections.abc import Iterable
from collections.abc import Sequence

from data.downloads import checks
from data.downloads import entry
from data.downloads import http as http_lib

WEIGHTS = "weights"

_OPEN_CATALYST = "https://dl.fbaipublicfiles.com/opencatalystproject/data"
_WEIGHTS_STORE = "https://jmp-iclr-datasets.s3.amazonaws.com"
_GB = 1_000_000_000

TERMS = {
  WEIGHTS: entry.Terms(
    "CC BY-NC 4.0", "Shoghi et al., ICLR 2024", "10.48550/arXiv.2310.16802"
  ),
  "oc20": entry.Terms(
    "CC BY 4.0",
    "Chanussot et al., ACS Catal. 11, 6059 (2021)",
    "10.1021/acscatal.0c04525",
  ),
  "oc22": entry.Terms(
    "CC BY 4.0", "Tran et al., ACS Catal. 13, 3066 (2023)", "10.1021/acscatal.2c05426"
  ),
  "ani1x": entry.Terms(
    "CC0", "Smith et al., Sci. Data 7, 134 (2020)", "10.1038/s41597-020-0473-z"
  ),
  "transition1x": entry.Terms(
    "CC BY 4.0",
    "Schreiner et al., Sci. Data 9, 779 (2022)",
    "10.1038/s41597-022-01870-w",
  ),
  "qm9": entry.Terms(
    "CC0", "Ramakrishnan et al., Sci. Data 1, 140022 (2014)", "10.1038/sdata.2014.22"
  ),
  "rmd17": entry.Terms(
    "CC0",
    "Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)",
    "10.1088/2632-2153/abba6f",
  ),
  "md22": entry.Terms(
    "not known",
    "Chmiela et al., Sci. Adv. 9, eadf0873 (2023)",
    "10.1126/sciadv.adf0873",
  ),
  "spice": entry.Terms(
    "CC0", "Eastman et al., Sci. Data 10, 11 (2023)", "10.1038/s41597-022-01882-6"
  ),
  "matbench": entry.Terms(
    "MIT", "Dunn et al., npj Comput. Mater. 6, 138 (2020)", "10.1038/s41524-020-00406-3"
  ),
  "qmof": entry.Terms(
    "CC BY 4.0", "Rosen et al., Matter 4, 1578 (2021)", "10.1016/j.matt.2021.02.015"
  ),
}

# Rough size in GB, and MD5.
_OC20 = {
  "train_200K": (0.344, "f8d0909c2623a393148435dede7d3a46"),
  "train_2M": (3.4, "953474cb93f0b08cdc523399f03f7c36"),
  "train_20M": (34, "863bc983245ffc0285305a1850e19cf7"),
  "train_all": (225, "12a7087bfd189a06ccbec9bc7add2bcd"),
  "val_id": (1.7, "f57f7f5c1302637940f2cc858e789410"),
  "val_ood_ads": (1.7, "431ab0d7557a4639605ba8b67793f053"),
  "val_ood_cat": (1.7, "532d6cd1fe541a0ddb0aa0f99962b7db"),
  "val_ood_both": (1.9, "5731862978d80502bbf7017d68c2c729"),
}
# Copies of the publisher's page disagree about which of their sums is whose.
_OC20_EXCHANGED = {"train_2M": "train_20M", "train_20M": "train_2M"}
_MATBENCH_SHA256 = {
  "jdft2d": "26057dc4524e193e32abffb296ce819b58b6e11d1278cae329a2f97817a4eddf",
  "phonons": "4db551f21ec5f577e6202725f10e34dfc509aa7df3a6bdaac497da7f6dbbb9b3",
  "dielectric": "83befa09bc2ec2f4b6143afc413157827a90e5e2e42c1eb507ccfa01bf26a1d6",
  "log_gvrh": "098af941f4c663270f1fe21abf20ffad6fb85ecbfcba5786ceac03983ac29da7",
  "log_kvrh": "44b113ddb7e23aa18731a62c74afa7e5aa654199e0db5f951c8248a00955c9cd",
  "perovskites": "4641e2417f8ec8b50096d2230864468dfa08278dc9d257c327f65d0305278483",
  "mp_gap": "58b65746bd88329986ed66031a2ac1369c7c522f7bc9f9081528e07097c2c057",
  "mp_e_form": "dedcb1d4ba2e3e50dbdd45ba5bc647a00e9c2bcf8f8bf556dc8e92caa39eb21f",
  "mp_is_metal": "9a028ed5750a4c76ca36e9f3c8d48fe0bf3fb21b76ec2289e58ae7048d527919",
}
_MD22_MOLECULES = (
  "Ac-Ala3-NHMe",
  "DHA",
  "stachyose",
  "AT-AT",
  "AT-AT-CG-CG",
  "buckyball-catcher",
  "double-walled_nanotube",
)


def _expected(
  size: int | None = None,
  *,
  about: float = 0,
  md5: Iterable[str] = (),
  sha256: str = "",
  s3_etag: str = "",
) -> checks.Expected:
  """A size, exact or rough, and checksums of which the file must have one."""
  sums = [checks.Checksum("md5", value) for value in md5]
  sums += [checks.Checksum("sha256", sha256)] if sha256 else []
  sums += [checks.Checksum("s3_etag", s3_etag)] if s3_etag else []
  return checks.Expected(size, int(size or about), tuple(sums))


def _file(
  dataset: str,
  part: str,
  name: str,
  addresses: Sequence[str],
  expected: checks.Expected,
  options: str,
  **more: bool | int,
) -> entry.Download:
  """A file that `data.convert` reads with some options."""
  command = f"python -m data.convert --dataset={dataset} --input={{path}} {options}"
  return entry.Download(
    dataset,
    part,
    name,
    tuple(addresses),
    expected,
    TERMS[dataset],
    command if options else "",
    **more,  # pyright: ignore[reportArgumentType]
  )


def _figshare(number: int, host: str = "figshare.com") -> tuple[str, ...]:
  """Addresses of a file at Figshare.

  The first, which its pages name, may be answered by a test for browsers; the others
  serve programs.
  """
  return (
    f"https://{host}/ndownloader/files/{number}",
    f"https://ndownloader.figshare.com/files/{number}",
    f"https://api.figshare.com/v2/file/download/{number}",
  )


def _weights(size: str, expected: checks.Expected) -> entry.Download:
  name = f"jmp-{size}.pt"
  return entry.Download(
    dataset=WEIGHTS,
    part=f"jmp-{size}",
    name=name,
    addresses=(f"{_WEIGHTS_STORE}/{name}",),
    expected=expected,
    terms=TERMS[WEIGHTS],
    command="python -m experiments.import_torch --input={path} "
    f"--output=models/jmp_{size}",
  )


def _oc20(part: str) -> entry.Download:
  size, md5 = _OC20[part]
  other = _OC20.get(_OC20_EXCHANGED.get(part, ""))
  name = f"s2ef_{part}.tar"
  return _file(
    "oc20",
    part,
    name,
    [f"{_OPEN_CATALYST}/{name}"],
    _expected(about=size * _GB, md5=[md5, *([other[1]] if other else [])]),
    "--output=converted/oc20 --num_workers=8",
  )


def _matbench(task: str) -> entry.Download:
  name = f"matbench_{task}.json.gz"
  return _file(
    "matbench",
    task,
    name,
    [f"https://ml.materialsproject.org/projects/{name}"],
    _expected(sha256=_MATBENCH_SHA256[task]),
    f"--fold=0 --output=converted/matbench_{task}_fold0",
  )


def _md22(molecule: str) -> entry.Download:
  name = f"md22_{molecule}.npz"
  site = "www.quantum-machine.org/gdml/repo/datasets"
  return _file(
    "md22",
    molecule,
    name,
    [f"https://{site}/{name}", f"http://{site}/{name}"],
    _expected(),
    f"--output=converted/md22_{molecule}",
  )


DOWNLOADS: tuple[entry.Download, ...] = (
  _weights("s", _expected()),
  _weights(
    "l", _expected(3_749_529_931, s3_etag="81f27687ded066a05b58e75665d58675-447")
  ),
  *map(_oc20, _OC20),
  _file(
    "oc22",
    "s2ef_total",
    "s2ef_total_train_val_test_lmdbs.tar.gz",
    [f"{_OPEN_CATALYST}/oc22/s2ef_total_train_val_test_lmdbs.tar.gz"],
    _expected(about=20 * _GB, md5=["ebea523c6f8d61248a37b4dd660b11e6"]),
    "--output=converted/oc22 --num_workers=8",
    with_dataset=True,
    unpacked=71 * _GB,
  ),
  _file(
    "ani1x",
    "release",
    "ani1x-release.h5",
    _figshare(18112775, "springernature.figshare.com"),
    _expected(5_590_846_027, md5=["98090dd6679106da861f52bed825ffb7"]),
    "--output=converted/ani1x --num_workers=8",
    with_dataset=True,
  ),
  _file(
    "transition1x",
    "release",
    "Transition1x.h5",
    _figshare(36035789),
    _expected(about=6.62 * _GB),
    "--output=converted/transition1x --num_workers=8",
    with_dataset=True,
  ),
  _file(
    "qm9",
    "molecules",
    "dsgdb9nsd.xyz.tar.bz2",
    _figshare(3195389, "springernature.figshare.com"),
    _expected(86_144_227, md5=["ad1ebd51ee7f5b3a6e32e974e5d54012"]),
    "--output=converted/qm9",
    with_dataset=True,
  ),
  _file(
    "qm9",
    "uncharacterized",
    "uncharacterized.txt",
    _figshare(3195404, "springernature.figshare.com"),
    _expected(about=487_000),
    "",
    with_dataset=True,
  ),
  _file(
    "rmd17",
    "release",
    "rmd17.tar.bz2",
    (
      *_figshare(23950376),
      "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2",
    ),
    _expected(1_066_301_513, md5=["cb1a927628d96f2e966025da4fb63d18"]),
    "--molecule=aspirin --output=converted/rmd17_aspirin",
    with_dataset=True,
    unpacked=int(1.3 * _GB),
  ),
  *map(_md22, _MD22_MOLECULES),
  _file(
    "spice",
    "1.1.4",
    "SPICE-1.1.4.hdf5",
    (
      "https://zenodo.org/records/8222043/files/SPICE-1.1.4.hdf5",
      "https://zenodo.org/api/records/8222043/files/SPICE-1.1.4.hdf5/content",
    ),
    _expected(16_058_156_944, md5=["f27d4c81da0e37d6547276bf6b4ae6a1"]),
    "--subset=dipeptides --output=converted/spice_dipeptides",
    with_dataset=True,
  ),
  *map(_matbench, _MATBENCH_SHA256),
  _file(
    "qmof",
    "v14",
    "qmof_v14.zip",
    ["https://figshare.com/ndownloader/articles/13147324/versions/14"],
    _expected(),
    "--output=converted/qmof",
  ),
  _file(
    "qmof",
    "v18",
    "qmof_database.zip",
    _figshare(59573735),
    _expected(392_088_304, md5=["0d89aaf66f2c306e86e47fd91cb1346e"]),
    "--output=converted/qmof",
  ),
)


def names() -> list[str]:
  """What `--dataset` can be."""
  return list(dict.fromkeys(d.dataset for d in DOWNLOADS))


def select(dataset: str, parts: Sequence[str] = ()) -> list[entry.Download]:
  """The files of some parts of a dataset.

  Args:
    dataset: name of the dataset, or "weights".
    parts: which parts; "all" for every one; none for a dataset that has no
      alternatives.

  Raises:
    DownloadError: there is no such dataset or part, or a part has to be named.
  """
  files = [d for d in DOWNLOADS if d.dataset == dataset]
  if not files:
    raise http_lib.DownloadError(
      f"There is no dataset {dataset!r} to fetch; there are {', '.join(names())}."
    )
  known = [d.part for d in files]
  if not parts:
    chosen = [d for d in files if d.with_dataset]
    if not chosen:
      raise http_lib.DownloadError(
        f"{dataset} has several parts; name one or more with --part: "
        f"{', '.join(known)}, or all."
      )
    return chosen
  unknown = [part for part in parts if part not in (*known, "all")]
  if unknown:
    raise http_lib.DownloadError(
      f"{dataset} has no part {unknown[0]!r}; it has {', '.join(known)}."
    )
  return files if "all" in parts else [d for d in files if d.part in parts]
