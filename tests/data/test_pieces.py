"""Files are cut between records: wherever a block ends, the same rows come out, on the same lines."""

import csv
import io

import pytest

from hrkd_cli.choices import SourceFormat
from hrkd_cli.data.sources.delimited import cut_quoted
from hrkd_cli.data.sources.pieces import open_table
from hrkd_cli.errors import DataError

QUOTED = {
    "plain": "text,label\na,b\nc,d\n",
    "no newline at the end": "text,label\na,b\nc,d",
    "line breaks in fields": 'text,label\n"one\ntwo\r\n\nthree",b\n"x, y",d\n"\n",\ne,f\n',
    "quotes in quotes": 'text,label\n"""a""\n""",b\n"","a"""\n"""",""""\n"\n""\n",c\n',
    "marks that are text": 'text,label\n5" disc,b\n 6"\n"x" ,d\n'.replace('"x" ', 'x" "'),
    "carriage returns": 'text,label\r\n"a\rb",c\r\nd,e\rf,"g\r\n"\r\n\r\nh,i\r\n',
    "blank lines": '\n\n\ntext,label\n\n\na,b\n\n"c\n\n",d\n\n',
    "a mark before a quoted header": '\ufeff"te\nxt",label\na,"b\n"\n',
    "other alphabets": 'text,label\n"\u00e9\u0085\u2028\n\U0001f600",b\n\u00e9,"\u00e9"\n',
}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def everything(path, kind):
    table = open_table(path, kind)
    return table.columns, [
        (line, None if row is None else list(row)) for line, row in table.rows(range(len(table.columns)))
    ]


@pytest.mark.parametrize("name", QUOTED)
def test_csv_is_the_same_wherever_a_block_ends(tmp_path, blocks, name):
    path = write(tmp_path / "a.csv", QUOTED[name])
    reader = csv.reader(io.StringIO(QUOTED[name].removeprefix("\ufeff"), newline=""), strict=True)
    records, line = [], 1
    for values in reader:
        if values:
            records.append((line, values))
        line = reader.line_num + 1
    (_, header), *expected = records
    expected = [(line, values if len(values) == len(header) else None) for line, values in expected]
    for size in range(1, len(QUOTED[name].encode()) + 2):
        blocks(size)
        assert everything(path, SourceFormat.CSV) == (header, expected), size


@pytest.mark.parametrize("name", QUOTED)
def test_pieces_cover_a_csv_and_end_with_the_first_line_that_can_end_them(tmp_path, name):
    path = write(tmp_path / "a.csv", QUOTED[name])
    data = path.read_bytes()
    for size in (1, 3, 10):
        pieces = list(cut_quoted(path, "csv", size))
        assert b"".join(data[piece.start : piece.stop] for piece in pieces) == data
        assert all(piece.bytes == piece.stop - piece.start for piece in pieces)
    if '"' not in QUOTED[name]:
        assert len(list(cut_quoted(path, "csv", 1))) == data.count(b"\n") + (not data.endswith(b"\n"))


BROKEN = {
    "a.csv": [
        'text,label\na,b\n"x\ny",c\n"un" closed,d\n"more",e\nf,g\n',
        'text,label\na,b\n"x\ny",c\n"never closed,d\nmore,e\n',
        'text,label\na,b\n"open\n,a "quoted" word,d\n"e\n",f\n',
        b'text,label\n"a\n\r\n",b\nc,d\n"\xff\n",e\nf,g\n',
    ],
    "a.tsv": [
        'text\tlabel\n"a\n"\tb\n"c" d\te\nf\tg\n',
        b"text\tlabel\na\tb\nc\xc3\td\ne\tf\n",
    ],
    "a.jsonl": [
        '{"text": "a", "label": 1}\n\n{"text": "b", "label": 1}\n{"text": \n{}\n',
        '{"text": "a", "label": 1}\n{"text": "b"}\n[1]\n{"text": 2}\n',
        b'{"text": "a", "label": 1}\n\n{"text": "\xe9"}\n',
    ],
    "positive.review": [
        "<review>\n<a>\nx\n</a>\n</review>\n<review>\n<a>\nx\n</review>\n<review>\n</review>\n",
        "<review>\n<a>\nx\n</a>\n</review>\n</review>\n<review>\n<a>\nx\n</a>\n</review>\n",
        "<review>\n<a>\nx\n</a>\n</review>\n<review>\n<a>\nx\n</a>\n",
    ],
}
KINDS = {
    ".csv": SourceFormat.CSV,
    ".tsv": SourceFormat.TSV,
    ".jsonl": SourceFormat.JSONL,
    ".review": SourceFormat.AMAZON,
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in BROKEN for content in BROKEN[name]])
def test_an_error_names_the_same_line_wherever_a_block_ends(tmp_path, blocks, name, content):
    path = write(tmp_path / name, content)
    messages = set()
    for size in range(1, len(path.read_bytes()) + 2):
        blocks(size)
        with pytest.raises(DataError, match=rf"^{path}:\d+: ") as error:
            everything(path, KINDS[path.suffix])
        messages.add(str(error.value))
    assert len(messages) == 1


WHOLE = {
    "a.tsv": 'text\tlabel\n"stray\tb\r\n\n"a ""b"""\t\u0085\nc\td\ne\tf',
    "b.tsv": 'text\tlabel\n"a\ttab\nline"\tb\n\nc\td\n',
    "a.jsonl": '{"text": "a\u2028"}\n\n{"label": 1, "text": "b"}\r\n{"split": "x"}\n{}',
    "positive.review": "<review>\n<a>\nx\n foo</review>\n</a>\n</review>\n\n<review>\n<b>\ny\n</b>\n </review> \n"
    "<review>\n</review>\n",
}


@pytest.mark.parametrize("name", WHOLE)
def test_other_text_formats_are_the_same_wherever_a_block_ends(tmp_path, blocks, name):
    path = write(tmp_path / name, WHOLE[name])
    whole = everything(path, KINDS[path.suffix])
    assert len(whole[1]) >= 2
    for size in range(1, len(path.read_bytes()) + 2):
        blocks(size)
        assert everything(path, KINDS[path.suffix]) == whole


def test_a_part_of_a_file_is_read_without_the_rest(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(f'"line\n{i}",x\n' for i in range(1000)))
    pieces = list(cut_quoted(path, "csv", 200))
    # A piece is the block and what its last record wants: here never more than two lines.
    assert max(piece.bytes for piece in pieces) < 200 + 2 * len('"line\n')
    assert len(pieces) > 60
