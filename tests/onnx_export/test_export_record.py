import json

import pytest
from huggingface_hub import ModelCard

import hrkd_cli
from hrkd_cli import evaluate
from hrkd_cli.evaluation import latency
from hrkd_cli.evaluation.latency import Latency
from hrkd_cli.events import Note
from hrkd_cli.models.model_folder import model_card
from hrkd_cli.onnx_export.export_record import (
    SECTION_BEGIN,
    SECTION_END,
    add_results,
    describe_slowdown,
    insert_section,
)
from hrkd_cli.predict.heads import DomainHeads


def export(student, **options):
    limit = {"max_drop": 100} if options.keys() & {"int8", "fp16", "int4"} else {}
    return hrkd_cli.export(student, **limit, **options)


@pytest.fixture
def fake_latency(monkeypatch):
    """Replace timing by fixed times; int8 is slower than fp32 at 32 tokens."""

    def measure(models, *, threads, **_):
        factors = {"model.onnx": (2.0, 3.0), "model_quantized.onnx": (1.0, 4.0)}
        return {
            name: tuple(Latency(t, c, f, 2 * f) for c in threads for t, f in zip((16, 32), factors[name], strict=True))
            for name in models
        }

    monkeypatch.setattr("hrkd_cli.onnx_export.export.measure_forward", measure)
    monkeypatch.setattr("hrkd_cli.onnx_export.export.usable_cpus", lambda: 2)


def test_the_card_has_the_measurements(student, fake_latency):
    (student / "README.md").write_text("---\ntags: [x]\n---\n\n# A student\n\nText.\n")
    events = []
    result = export(student, int8=True, target="avx2", on_event=events.append)
    card = (student / "README.md").read_text()
    assert card.startswith("---\ntags: [x]\n---\n\n# A student\n\nText.\n")
    int8 = evaluate([student / "onnx"], data=student.parent / "dev.csv", split="dev").models[0]
    for domain, scores in int8.domains.items():
        assert f"| {domain} | 1.000 | {scores.accuracy:.3f} |" in card
    assert f"| lost, points | 0.00 | {result.gate.drop:.2f} |" in card
    for file in result.files:
        assert f"{file.bytes:,}" in card
    assert "| 16 | 1 | 2.00 / 4.00 | 1.00 / 2.00 |" in card
    assert "int8 is slower than fp32 at 32 tokens with 1 thread; 32 tokens with 2 threads." in card
    assert result.machine in card
    assert "operator sets ai.onnx 17" in card
    assert "made for avx2 (7-bit weights)" in card
    assert "Not tested" in card
    warnings = [e.text for e in events if isinstance(e, Note) and e.warning]
    assert warnings == [
        "model_quantized.onnx is slower than fp32 here at 32 tokens with 1 thread; 32 tokens with 2 threads"
    ]


def test_a_second_export_replaces_the_cards_section(student, fake_latency):
    export(student, latency=False)
    card = (student / "README.md").read_text()
    assert "Accuracy was not measured" in card
    assert "Latency was not measured" in card
    export(student, int8=True)
    card = (student / "README.md").read_text()
    assert card.count(SECTION_BEGIN) == card.count(SECTION_END) == 1
    assert "not measured" not in card
    record = json.loads((student / "onnx/export.json").read_text())
    assert set(record["files"]) == {"model.onnx", "model_quantized.onnx"}
    assert record["files"]["model.onnx"]["dev"]["accuracy"] == {"books": 1.0, "dvd": 1.0}
    # A new fp32 file of the same weights changes no other entry, and its own has no earlier latency.
    export(student, force=True, latency=False)
    again = json.loads((student / "onnx/export.json").read_text())["files"]
    assert again["model_quantized.onnx"] == record["files"]["model_quantized.onnx"]
    assert "latency" in record["files"]["model.onnx"]
    assert "latency" not in again["model.onnx"]


def test_existing_files_are_timed_again_with_a_new_one(student, monkeypatch):
    slowdown = [1.0]

    def measure(models, **_):
        factors = {"model.onnx": 3.0, "model_quantized.onnx": 1.0, "model_fp16.onnx": 2.0}
        assert all(opener.args[1].is_file() for opener in models.values())
        return {name: (Latency(16, 1, slowdown[0] * factors[name], slowdown[0] * factors[name]),) for name in models}

    monkeypatch.setattr("hrkd_cli.onnx_export.export.measure_forward", measure)
    slowdown[0] = 10.0
    export(student, int8=True)
    slowdown[0] = 1.0
    export(student, fp16=True)
    card = (student / "README.md").read_text()
    assert "| 16 | 1 | 3.00 / 3.00 | 2.00 / 2.00 | 1.00 / 1.00 |" in card
    assert "slower" not in card
    # Without timing, earlier times stay.
    export(student, int4=True, latency=False)
    assert "| 16 | 1 | 3.00 / 3.00 | 2.00 / 2.00 | 1.00 / 1.00 |" in (student / "README.md").read_text()


def test_a_damaged_record_is_replaced(student):
    export(student, latency=False)
    (student / "onnx/export.json").write_text('{"format": 1, "files": 3}')
    export(student, int8=True, latency=False)
    assert set(json.loads((student / "onnx/export.json").read_text())["files"]) == {
        "model.onnx",
        "model_quantized.onnx",
    }


def test_files_are_timed_at_each_token_count_and_thread_count(student, monkeypatch):
    monkeypatch.setattr(latency, "MAX_RUNS", latency.BURST)
    monkeypatch.setattr(latency, "MIN_RUNS", latency.BURST)
    result = export(student, int8=True)
    threads = sorted({figure.threads for figure in result.files[0].latency})
    for file in result.files:
        cells = [(f.tokens, f.threads) for f in file.latency]
        assert cells == [(n, t) for t in threads for n in (16,)]  # it truncates texts to 24 tokens
        assert all(0 < f.p50 <= f.p95 for f in file.latency)


def test_a_section_replaces_the_earlier_one_in_place():
    once = insert_section("# A\n", "one")
    assert once == f"# A\n\n{SECTION_BEGIN}\none\n{SECTION_END}\n"
    assert insert_section(once + "\nafter\n", "two") == f"# A\n\n{SECTION_BEGIN}\ntwo\n{SECTION_END}\n\nafter\n"


def test_a_slowdown_below_5_percent_is_ignored():
    def timed(*times):
        return {
            "latency": [Latency(tokens, 1, p50, 9.0).to_json() for tokens, p50 in zip((16, 32), times, strict=True)]
        }

    assert describe_slowdown(timed(1.04, 1.0), timed(1.0, 1.0)) == ""
    assert describe_slowdown(timed(1.06, 1.2), timed(1.0, 1.0)) == "16, 32 tokens with 1 thread"


def test_a_card_in_another_encoding_keeps_its_bytes(student):
    (student / "README.md").write_bytes("# A café\n".encode("cp1252"))
    export(student)
    assert (student / "README.md").read_bytes().startswith(b"# A caf\xe9\n\n<!--")


def test_the_metadata_of_a_card_has_the_accuracy_of_every_file_by_domain():
    heads = DomainHeads.build({"books": ("bad", "good")})
    scores = {"books": {"n": 8, "accuracy": 0.5, "macro_f1": 0.4}}
    card = model_card(title="small", description="A student.", heads=heads, scores=scores, max_length=16)
    old = {"model_q4.onnx": {"dev": {"accuracy": {"books": 0.1}}}}
    new = {"model.onnx": {"dev": {"accuracy": {"books": 0.875}}}, "model_quantized.onnx": {}}
    changed = add_results(add_results(card, old), new)
    shown = {(each.metric_name, each.dataset_name, each.metric_value) for each in ModelCard(changed).data.eval_results}
    assert shown == {
        (None, "books", 0.5),
        ("macro-F1", "books", 0.4),
        ("accuracy of onnx/model.onnx", "books", 0.875),
    }
    assert changed.partition("\n---\n")[2] == card.partition("\n---\n")[2]


@pytest.mark.parametrize("card", ["# Mine\n", "---\nlicense: mit\n---\n# Mine\n", "---\na: [\n---\n# Mine\n"])
def test_a_card_that_hrkd_did_not_write_keeps_its_metadata(card):
    assert add_results(card, {"model.onnx": {"dev": {"accuracy": {"books": 0.5}}}}) == card
