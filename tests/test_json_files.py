import pytest

from hrkd_cli.errors import ModelError
from hrkd_cli.json_files import read_json, read_json_or_empty


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config.json"


def test_an_object_is_read(file):
    file.write_text('{"name": "é"}', encoding="utf-8")
    assert read_json(file) == read_json_or_empty(file) == {"name": "é"}


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2", "cannot be read as JSON"), ("[1]", "not a JSON object"), ("\xff", "cannot be read")]
)
def test_a_damaged_file_is_an_error_or_empty(file, text, message):
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=message):
        read_json(file, missing_ok=True)
    assert read_json_or_empty(file) == {}


def test_a_missing_file_is_an_error_or_empty(file):
    with pytest.raises(ModelError, match="no such file"):
        read_json(file)
    assert read_json(file, missing_ok=True) == read_json_or_empty(file) == {}
