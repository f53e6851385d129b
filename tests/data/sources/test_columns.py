import pytest

from hrkd_cli.data.drop_reasons import DropReason
from hrkd_cli.errors import DataError, UsageError
from source_rows import HEADER, reason_and_line, text_domain_split, text_label_domain, write_csv_file, write_file


def test_columns_are_recognized_by_common_names_in_any_case(tmp_path, read):
    raw, _ = read(
        write_file(
            tmp_path / "a.csv",
            "id,Premise,Hypothesis,Gold_Label,Genre,Split\n1,a,b,x,d,VAL\n2,a2,b2,-,d,\n3,c,d,y,d,odd\n",
        )
    )
    assert [(e.text, e.text_pair, e.label, e.domain, e.split) for e in raw.examples] == [("a", "b", "x", "d", "dev")]
    assert reason_and_line(raw) == [(DropReason.NO_LABEL, 3), (DropReason.UNKNOWN_SPLIT, 4)]


def test_category_is_the_domain_next_to_a_label_and_else_the_label(tmp_path, read):
    raw, _ = read(write_file(tmp_path / "one.csv", "category,content,sentiment\nbooks,a,good\n"))
    assert text_label_domain(raw) == [("a", "good", "books")]
    write_file(tmp_path / "folder" / "dvd.csv", "category,content\nspam,a\n")
    raw, _ = read(tmp_path / "folder")
    assert text_label_domain(raw) == [("a", "spam", "dvd")]


def test_only_a_column_called_domain_or_a_named_one_overrides_the_file_name(tmp_path, read):
    write_csv_file(tmp_path / "one.csv", "a,x,g,k", header="text,label,genre,Domain")
    write_csv_file(tmp_path / "two.csv", "b,x,g", header="text,label,genre")
    raw, _ = read(tmp_path)
    assert text_domain_split(raw) == [("a", "k", None), ("b", "two", None)]
    raw, _ = read(tmp_path, domain="genre")
    assert text_domain_split(raw) == [("a", "g", None), ("b", "g", None)]


def test_columns_can_be_named(tmp_path, read):
    path = write_file(tmp_path / "a.csv", "text,label,domain,t,l,d,p,s\nx,x,x,a,b,c,e,train\n")
    raw, _ = read(path, text="t", label="l", domain="d", text_pair="p", split="S")
    example = raw.examples[0]
    assert (example.text, example.text_pair, example.label, example.domain, example.split) == (
        "a",
        "e",
        "b",
        "c",
        "train",
    )


@pytest.mark.parametrize("role", ["text", "text_pair", "label", "domain", "split"])
def test_a_named_column_that_is_missing_is_an_error(tmp_path, read, role):
    path = write_file(tmp_path / "a.csv", HEADER + "a,b,c\n")
    option = "--" + role.replace("_", "-")
    with pytest.raises(DataError, match=rf"a.csv: no column 'nope' .{option}.; columns: text, label, domain"):
        read(path, **{role: "nope"})


@pytest.mark.parametrize("role", ["text", "label", "domain"])
def test_a_required_column_that_is_not_found_is_an_error(tmp_path, read, role):
    path = write_file(tmp_path / "a.csv", HEADER.replace(role, "zzz") + "a,b,c\n")
    with pytest.raises(
        DataError, match=rf"a.csv: no {role} column found .columns: .*zzz.*; name it with hrkd prepare --{role}"
    ):
        read(path)


def test_one_column_named_for_two_roles_is_an_error(tmp_path, read):
    path = write_csv_file(tmp_path / "a.csv", "a,x,d", header="Body,label,domain")
    with pytest.raises(UsageError, match=r"--text and --label are the same column, 'Body'; name two columns"):
        read(path, text="body", label="Body")


def test_a_role_with_two_columns_of_one_name_is_an_error(tmp_path, read):
    path = write_file(tmp_path / "a.csv", "text,label,Text,domain,x,x\na,b,c,d,e,f\n")
    with pytest.raises(DataError, match=r"a.csv: 2 columns are called 'text'; rename all but one"):
        read(path)
    assert text_label_domain(read(write_file(path, "text,label,domain,x,x\na,b,c,d,e\n"))[0]) == [("a", "b", "c")]


def test_columns_with_other_names_than_their_roles_are_noted_once(tmp_path, read):
    for name in ("train", "test"):
        write_csv_file(tmp_path / f"{name}.csv", f"{name},x,d", header="review_text,sentiment,category")
    assert read(tmp_path)[1] == ["columns: domain = category, label = sentiment"]


@pytest.mark.parametrize("first", ["0,1467810000,so nice", "I have seen a better one,x,y"])
def test_a_first_line_that_looks_like_a_row_is_said(tmp_path, read, first):
    text = first.split(",").index(max(first.split(","), key=len)) + 1
    hint = rf"if the file has no header: hrkd prepare --no-header --text {text} --label N .N: its number.$"
    with pytest.raises(DataError, match=rf"no text column found .*; name it with hrkd prepare --text; {hint}"):
        read(write_file(tmp_path / "a.csv", f"{first}\n{first}\n"))
