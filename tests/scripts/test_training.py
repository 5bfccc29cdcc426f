"""MNIST files for the training benchmark: unpacked, packed, damaged or missing."""

import gzip
import sys

import pytest
from support.paths import ROOT

sys.path.append(str(ROOT))

from scripts.bench.training import FILES, unpacked


@pytest.fixture
def packed(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress(name.encode()))
    return folder


def test_packed_files_are_unpacked_to_temporary_folder(tmp_path, packed):
    with unpacked(tmp_path) as root:
        assert root != tmp_path
        assert [(root / "MNIST" / "raw" / name).read_text() for name in FILES] == list(FILES)
    assert not root.exists()
    assert {path.suffix for path in packed.iterdir()} == {".gz"}


def test_unpacked_files_are_read_in_place(tmp_path, packed):
    for name in FILES:
        (packed / name).touch()
    with unpacked(tmp_path) as root:
        assert root == tmp_path


def test_missing_or_damaged_file_is_reported_in_one_line(tmp_path, packed):
    (packed / f"{FILES[0]}.gz").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match="delete it and download it anew") as error, unpacked(tmp_path):
        pass
    assert "\n" not in str(error.value)
    (packed / f"{FILES[0]}.gz").unlink()
    with (
        pytest.raises(SystemExit, match=f"{FILES[0]} missing, packed .* or not; --data-root") as error,
        unpacked(tmp_path),
    ):
        pass
    assert "\n" not in str(error.value)
