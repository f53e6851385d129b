import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.errors import DataError
from source_rows import reason_and_line, text_label_domain, write_file


def test_values_and_class_names_of_parquet_files(tmp_path, read):
    table = pa.table(
        {"text": ["a", "b", None, "d"], "label": [0, 1, 0, -1], "domain": pa.array(["x"] * 4).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "plain.parquet")
    raw, _ = read(tmp_path / "plain.parquet")
    assert text_label_domain(raw) == [("a", "0", "x"), ("b", "1", "x"), ("d", "-1", "x")]
    assert reason_and_line(raw) == [(DropReason.EMPTY_TEXT, 3)]
    features = {"label": {"_type": "ClassLabel", "names": ["neg", "pos"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "hf.parquet")
    raw, _ = read(tmp_path / "hf.parquet")
    assert text_label_domain(raw) == [("a", "neg", "x"), ("b", "pos", "x")]
    assert reason_and_line(raw) == [(DropReason.EMPTY_TEXT, 3), (DropReason.NO_LABEL, 4)]


def test_a_file_that_is_not_parquet_is_an_error(tmp_path, read):
    with pytest.raises(DataError, match=r"all.parquet: not a readable Parquet file"):
        read(write_file(tmp_path / "all.parquet", "text,label\n"))
