import json
import random

import pytest

from hrkd_cli import prepare
from hrkd_cli.data import findings

WORDS = [f"{start}{end}" for start in "bcdfghklmnprstvw" for end in ("an", "ell", "ip", "ost", "um", "ey", "ack")]


def sentence(number, words=WORDS, length=12):
    return " ".join(random.Random(number).choices(words, k=length))


@pytest.fixture
def find(tmp_path, jsonl):
    """Prepare rows of (domain, label, text, split) and return the findings by kind, as lines without the folder."""

    def run(rows, **options):
        rows = [dict(zip(("domain", "label", "text", "split"), row, strict=False)) for row in rows]
        path = jsonl(tmp_path / "a.jsonl", rows)
        result = prepare(path, out=tmp_path / "out", force=True, **options)
        return {each.kind: str(each).replace(f"{tmp_path}/", "") for each in result.findings}

    return run


def rows_of(domain, count=40, labels=("bad", "good"), **options):
    return [(domain, labels[i % len(labels)], f"{domain} {sentence(f'{domain}{i}', **options)}") for i in range(count)]


def test_clean_data_has_no_findings_and_its_lengths(find, tmp_path):
    assert find([(d, "xy"[i % 2], f"{d} text {i:02d} {'.' * i}") for d in ("a", "bb") for i in range(40)]) == {}
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert manifest["characters"] == {
        "a": {"median": 29, "p95": 47, "max": 49},
        "bb": {"median": 30, "p95": 48, "max": 50},
    }
    assert manifest["findings"] == []
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| bb | 32 | 4 | 4 | 30, 48 | x, y |" in card
    assert "Findings" not in card


def test_a_rare_label_with_one_typing_error_is_found_with_its_option(find, tmp_path):
    rows = rows_of("b", 60, labels=("negative", "positive"))
    rows[7] = ("b", "postive", sentence(7))
    line = (
        "label misspelled: 'postive' (1 row) looks like 'positive' but is a class of its own; if it is a typing error: "
        "--rename-label postive=positive (a.jsonl:8)"
    )
    assert find(rows) == {"label misspelled": line}
    assert f"\n- {line.replace('(a.', f'({tmp_path}/a.')}\n" in (tmp_path / "out" / "README.md").read_text()
    assert find(rows, rename_label=["postive=positive"]) == {}
    rows[7] = ("b", "psoitive", sentence(7))
    assert "label misspelled" in find(rows)


def test_a_sign_for_a_missing_value_among_the_labels_is_found_with_the_option_that_drops_it(find):
    line = "label looks missing: 'NA' (20 rows) is a class; if it means no label: --rename-label NA="
    rows = rows_of("b", 60, labels=("negative", "positive", "NA"))
    assert find(rows) == {"label looks missing": line}
    assert find(rows, rename_label=["NA="]) == {}


@pytest.mark.parametrize(
    ("rare", "others"),
    [
        ("class 1", ("class 2", "class 3")),
        ("yes", ("yet", "no")),
        ("x" * 51, ("x" * 52, "y")),
        ("unsaid", ("said", "other")),
        ("mail", ("main",)),
    ],
)
def test_labels_that_only_resemble_are_not_typing_errors(find, rare, others):
    # Another number, too short, too long, two differences, not rare.
    count = 20 if len(others) == 1 else 1
    assert "label misspelled" not in find([("d", rare, f"rare {i}") for i in range(count)] + rows_of("d", 60, others))


def test_labels_that_look_equal_are_named_with_code_points_and_the_options_that_merge_them(find):
    rows = rows_of("d", 60, labels=("tea", "caf\u00e9", "cafe\u0301", "CAF\u00c9"))[:-1]
    assert find(rows)["labels that look equal"] == (
        "labels that look equal: 'CAF\u00c9' (U+00C9), 'cafe\u0301' (U+0301), 'caf\u00e9' (U+00E9) are different "
        "classes; to make them equal: --rename-label 'CAF\u00c9=cafe\u0301' --rename-label 'caf\u00e9=cafe\u0301'"
    )


def test_many_numbers_as_labels_are_a_finding(find):
    labels = [f"{number / 10}" for number in range(1, 22)]
    assert find(rows_of("d", 210, labels))["numbers as labels"].startswith("numbers as labels: 21 labels, all of them")
    assert "numbers as labels" not in find(rows_of("d", 210, [*labels[1:], "other"]))
    assert "numbers as labels" not in find(rows_of("d", 210, labels[:20]))


def test_a_label_of_one_domain_is_a_finding_only_if_domains_share_labels(find):
    mixed = [("b", "mixed", sentence(i)) for i in range(20)]
    assert find(rows_of("a") + rows_of("b") + mixed) == {
        "label of one domain": "label of one domain: b/mixed (20 rows), although the domains share other labels; no "
        "other domain helps to learn it; --rename-label OLD=NEW merges a label into another one, OLD= drops its rows"
    }
    assert find(rows_of("a", labels=("x", "y")) + rows_of("b", labels=("z", "w"))) == {}
    assert find(rows_of("a", labels=("x", "y")) + rows_of("b", labels=("x", "z"))) == {}
    assert find(rows_of("b") + mixed) == {}
    tiny = [("b", f"{word} rare", sentence(word)) for word in WORDS[:5]]
    assert [*find(rows_of("b") + tiny)] == ["classes with fewer than 10 rows"]


def test_tiny_classes_and_classes_without_rows_in_a_split_are_found(find):
    rare = [("d", "rare", sentence(i)) for i in range(9)]
    assert find(rows_of("d") + rare) == {
        "classes with fewer than 10 rows": "classes with fewer than 10 rows: d/rare (9 rows), too few to learn and to "
        "split; add rows, or --rename-label OLD=NEW merges a label into another one, OLD= drops its rows"
    }
    test = [("d", "bad", sentence(i), "test") for i in range(20)]
    assert find(rows_of("d") + test) == {"no test rows": "no test rows: d/good"}
    assert find(rows_of("d"), test=0) == {"no test rows": "no test rows: d"}


def test_a_domain_with_nearly_all_rows_in_one_class_is_a_finding(find):
    rows = rows_of("d", 180, ("good",)) + [("d", "bad", sentence(i)) for i in range(20)]
    assert find(rows) == {
        "nearly all rows in one class": "nearly all rows in one class: d/good (90%), so always answering it is that "
        "accurate; compare macro-F1, and train with --metric macro-f1"
    }
    assert find(rows[1:]) == {}


def test_texts_of_unusual_length_are_found_with_the_longest_first(find):
    rows = rows_of("d", 100)
    rows[10], rows[20], rows[30] = ("d", "bad", "x"), ("d", "bad", "y " * 500), ("d", "bad", "z" * 2000)
    assert find(rows) == {
        "unusual lengths": "unusual lengths: 3 texts with 1 to 2,000 characters; look for rows that were joined or cut "
        "off (a.jsonl:31)"
    }


def test_texts_that_were_decoded_with_a_wrong_encoding_are_found(find):
    rows = rows_of("d")
    rows[3] = ("d", "good", f"un caf\u00e9\u2026 {sentence(3)}")
    assert find(rows) == {}
    rows[3] = ("d", "good", f"un caf\u008e {sentence(3)}")
    assert find(rows) == {
        "control characters": "control characters: 1 text with characters that no language has (U+0080 to U+009F); "
        "decode the file again, with its own encoding (a.jsonl:4)"
    }


def test_texts_with_several_labels_are_found_across_domains_that_have_the_same_labels(find):
    rows = rows_of("a") + rows_of("b")
    rows[3], rows[5], rows[44] = ("a", "good", "Same text"), ("a", "bad", "same  text"), ("b", "bad", "same text")
    found = find(rows)
    assert found["label conflicts"] == (
        "label conflicts: 1 text with several labels, of which at most one is right; correct them (a.jsonl:6 and "
        "a.jsonl:4)"
    )
    assert found["texts in several domains"] == (
        "texts in several domains: 1 text whose domain a model cannot find out (a.jsonl:4 and a.jsonl:45)"
    )
    rows[5] = ("a", "good", "same text")
    assert "label conflicts" in find(rows)
    assert "label conflicts" not in find(rows + [("b", "other", f"other {i}") for i in range(10)])


def test_near_duplicates_are_found_across_splits(find, tmp_path):
    texts = [sentence(i, length=31) for i in range(60)]
    rows = [("d", "xy"[i % 2], text, "train") for i, text in enumerate(texts)]
    for i in range(40):
        rows.append(("d", "xy"[i % 2], sentence(1000 + i), "test"))
    words = texts[7].split()
    rows[60] = ("d", "x", " ".join([*words[:15], "changed", *words[16:]]).capitalize() + "!", "test")
    rows[61] = ("d", "y", " ".join([*words[:10], "changed", "twice", *words[12:]]), "test")
    rows[12] = ("d", "x", f"{texts[11]} Indeed.", "train")
    rows.insert(0, rows.pop(60))  # the test row comes before the train row
    assert find(rows, dev=0.0) == {
        "no dev rows": "no dev rows: d",
        "near-duplicates across splits": "near-duplicates across splits: 1 dev or test row (2.5%) nearly equal to a "
        "train row, so that scores are too high; remove one of each two (a.jsonl:1 and a.jsonl:9)",
        "near-duplicates": "near-duplicates: 1 row nearly equal to an earlier row (a.jsonl:14 and a.jsonl:13)",
    }
    kinds = {each["kind"]: each for each in json.loads((tmp_path / "out" / "dataset.json").read_text())["findings"]}
    assert kinds["near-duplicates across splits"]["warning"] is True
    assert kinds["near-duplicates"]["warning"] is False


def test_large_data_is_examined_in_a_sample_that_keeps_equal_texts_together(tmp_path, jsonl, monkeypatch):
    monkeypatch.setattr(findings, "MAX_SAMPLE", 100)
    rows = [{"text": f"text {i // 2}", "label": "xy"[i % 2], "domain": "d"} for i in range(1000)]
    rows += [{"text": f"other {i}", "label": "xy"[i % 2], "domain": "d"} for i in range(1000)]
    events = []
    result = prepare(jsonl(tmp_path / "a.jsonl", rows), out=tmp_path / "out", on_event=events.append)
    notes = [event.text for event in events if hasattr(event, "text")]
    sampled = next(int(note.split()[7]) for note in notes if note.startswith("texts are compared in a sample of"))
    assert 60 < sampled < 140
    (conflicts,) = (each for each in result.findings if each.kind == "label conflicts")
    assert 10 < conflicts.count < sampled
    assert conflicts.count == 2 * len(conflicts.rows)
