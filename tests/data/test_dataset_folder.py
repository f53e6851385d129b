import json
import os
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

from hrkd_cli import prepare
from hrkd_cli.data.dataset_folder import open_dataset
from hrkd_cli.errors import DataError


def test_open_dataset_returns_the_prepared_rows(prepared):
    dataset = open_dataset(prepared)
    assert dataset.domains == ("books", "dvd")
    assert dataset.labels == {"books": ("bad", "good"), "dvd": ("bad", "good")}
    assert dataset.path == prepared
    assert not dataset.has_pairs
    assert dataset.fingerprint == json.loads((prepared / "dataset.json").read_text())["fingerprint"]
    assert [len(dataset.split("books", split)) for split in ("train", "dev", "test", "all")] == [32, 4, 4, 40]
    rows = dataset.split("dvd", "all")
    assert rows.pairs is None
    assert set(rows.texts) == {f"dvd number {i}" for i in range(40)}
    assert all(
        label == ("bad", "good")[int(t.split()[-1]) % 2] for t, label in zip(rows.texts, rows.labels, strict=True)
    )


def test_open_dataset_with_pairs(tmp_path, jsonl):
    jsonl(tmp_path / "in" / "d.jsonl", [{"text": f"t{i}", "text_pair": f"p{i}", "label": i % 2} for i in range(20)])
    prepare(tmp_path / "in", out=tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    rows = dataset.split("d", "all")
    assert dataset.has_pairs
    assert sorted(zip(rows.texts, rows.pairs, strict=True)) == sorted((f"t{i}", f"p{i}") for i in range(20))


def edit(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_domain_name_cannot_lead_out_of_a_prepared_folder(prepared, tmp_path):
    """Models trained on it would be written to such places too."""
    (prepared / "data" / "dvd").rename(tmp_path / "outside")
    domains = json.loads((prepared / "dataset.json").read_text())["domains"]
    name = str(tmp_path / "outside")
    edit(prepared, domains={"books": domains["books"], name: domains["dvd"]})
    with pytest.raises(DataError, match=r"dataset.json: domain name '/.*outside' contains a slash; rename it"):
        open_dataset(prepared)


def test_a_damaged_folder_is_an_error_of_one_line(prepared):
    edit(prepared, version=99)
    with pytest.raises(DataError, match="version 99"):
        open_dataset(prepared)
    edit(prepared, version=1)
    path = prepared / "data" / "books" / "dev.parquet"
    good = path.read_bytes()
    path.write_bytes((prepared / "data" / "books" / "train.parquet").read_bytes())
    with pytest.raises(DataError, match=r"dev.parquet: 32 rows, dataset.json says 4"):
        open_dataset(prepared)
    path.write_bytes(good[:50])
    with pytest.raises(DataError, match=r"dev.parquet: cannot be read") as error:
        open_dataset(prepared)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(DataError, match=r"dev.parquet: missing"):
        open_dataset(prepared)
    (prepared / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset.json: cannot be read as JSON .*; prepare the data again$"):
        open_dataset(prepared)


def test_pandas_and_datasets_open_the_folder(tmp_path, jsonl):
    for domain in ("a", "b=c"):
        rows = [{"text": f"{domain}\u0085{i}", "text_pair": f"p{i}", "label": i % 2} for i in range(20)]
        jsonl(tmp_path / "in" / f"{domain}.jsonl", rows)
    out = tmp_path / "out"
    prepare(tmp_path / "in", out=out)
    frame = pd.read_parquet(out / "data" / "a" / "train.parquet")
    assert list(frame.columns) == ["text", "text_pair", "label", "domain", "location"]
    assert set(frame["label"]) == {"0", "1"}
    assert pq.read_schema(out / "data" / "a" / "train.parquet").types == ["string"] * 5
    code = (
        "import datasets, sys; d = datasets.load_dataset(sys.argv[1]); "
        "print({k: (v.num_rows, v.column_names, sorted(set(v['domain']))) for k, v in d.items()})"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    shown = subprocess.run([sys.executable, "-c", code, out], env=env, capture_output=True, text=True, check=True)
    columns = ["text", "text_pair", "label", "domain", "location"]
    expected = {k: (n, columns, ["a", "b=c"]) for k, n in (("train", 32), ("dev", 4), ("test", 4))}
    assert shown.stdout.strip() == str(expected)
