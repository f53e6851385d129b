"""Files that cannot be read are named for what they are, and the command that converts them works."""

import shlex
import subprocess
import sys
import tarfile
import zipfile

import pandas
import pytest

from hrkd_cli.errors import DataError
from source_rows import HEADER, text_label_domain, write_file

CSV = HEADER + "a,x,d\nb,y,d\n"


def _run_advice(error, folder):
    command = str(error.value).partition("to convert it: ")[2].partition(" && hrkd")[0]
    command = command.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(command, shell=True, check=True, cwd=folder)


@pytest.mark.parametrize("name", ["my reviews.zip", "all.csv.zip", "all.tar", "all.tar.gz", "all.tgz"])
def test_an_archive_is_unpacked_by_the_command(tmp_path, read, name):
    write_file(tmp_path / "all.csv", CSV)
    path = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "all.csv", "all.csv")
    else:
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
            archive.add(tmp_path / "all.csv", "all.csv")
    with pytest.raises(DataError, match=r"a (zip|tar) archive; to convert it: python -m (zip|tar)file -e") as error:
        read(path)
    _run_advice(error, tmp_path)
    raw, _ = read(tmp_path / f"{name.split('.')[0]}_unpacked")
    assert text_label_domain(raw) == [("a", "x", "d"), ("b", "y", "d")]


def test_a_feather_file_is_converted_by_the_command(tmp_path, read):
    frame = pandas.DataFrame({"text": ["a"], "label": [1], "domain": ["d"]})
    frame.to_feather(tmp_path / "it's.feather")
    with pytest.raises(DataError, match=r"it's.feather: Feather .Arrow.; to convert it: python -c") as error:
        read(tmp_path / "it's.feather")
    _run_advice(error, tmp_path)
    assert text_label_domain(read(tmp_path / "it's.parquet")[0]) == [("a", "1", "d")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
            "a Git LFS pointer.*git lfs pull",
        ),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "a Git LFS pointer"),
        ("a.csv", b"PAR1 and more", "Parquet; to convert it: cp .*a.csv a.parquet"),
        ("a.xlsx", b"PK\x03\x04____[Content_Types].xml", "an Excel workbook; .*openpyxl.*read_excel.* a.csv$"),
        ("a.csv", b"PK\x03\x04____[Content_Types].xml", "an Excel workbook"),
        ("a.jsonl", b"<!DOCTYPE html><html>", "a web page, not the data"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1", "an old Excel workbook; .*--convert-to csv"),
        ("a.pkl", b"\x80\x04\x95abc", "a Python pickle"),
    ],
)
def test_content_is_recognized_whatever_the_suffix_is(tmp_path, read, name, content, message):
    path = write_file(tmp_path / name, content)
    with pytest.raises(DataError, match=rf"^{path}: {message}"):
        read(path)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_yaml_is_named_with_the_command_of_rasa(tmp_path, read):
    path = write_file(tmp_path / "nlu.yml", "nlu:\n- intent: a\n")
    with pytest.raises(
        DataError, match=r"YAML, perhaps Rasa's; to convert it: rasa data convert nlu .* --out nlu.json"
    ):
        read(path)
