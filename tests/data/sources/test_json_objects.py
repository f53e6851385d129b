import json

import pytest

from hrkd_cli.errors import DataError
from source_rows import text_label_domain, write_file

ROWS = [("Grüße, größer", "x", "a"), ("zwei", "y", "a")]


LINES = "".join(json.dumps({"text": t, "label": n, "domain": d}, ensure_ascii=False) + "\n" for t, n, d in ROWS)


ARRAY = json.dumps([{"text": t, "label": n, "domain": d} for t, n, d in ROWS], indent=1)


@pytest.mark.parametrize("content", [ARRAY, LINES.replace("\n", ""), LINES])
@pytest.mark.parametrize("name", ["all.json", "all.jsonl"])
def test_arrays_lines_and_concatenated_objects_are_read(tmp_path, read, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert text_label_domain(read(tmp_path / name)[0]) == ROWS


@pytest.mark.parametrize("line", ['{"text": "a"', "[1, 2]", "[" * 100_000, '{"text": ' + "1" * 5000 + "}"])
def test_a_line_that_cannot_be_parsed_is_an_error(tmp_path, read, line):
    path = write_file(tmp_path / "all.jsonl", '{"text": "a", "label": "b", "domain": "c"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"all.jsonl:2: not ") as error:
        read(path)
    assert len(str(error.value)) < 400
