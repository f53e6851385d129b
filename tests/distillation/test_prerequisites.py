"""What is checked before a distillation, and the teach stage that it may run first."""

import json

import pytest
from transformers import AutoModel, LlamaConfig

from hrkd_cli.data.dataset import Dataset, TextRows
from hrkd_cli.distillation.distill import distill
from hrkd_cli.distillation.prerequisites import choose_size
from hrkd_cli.errors import HrkdError, ModelError, OutputError, UsageError
from hrkd_cli.events import Note, ignore
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.plan import FEW_ROWS
from short_runs import first_step, run_distill
from tiny import tiny_tokenizer, write_encoder, write_raw

QUICK = {
    "student": "2x32",
    "epochs": 1,
    "teacher_epochs": 6,
    "learning_rate": 3e-3,
    "max_length": 16,
    "allow_weak_teacher": True,
}


def test_raw_data_is_prepared_and_a_plain_encoder_is_fine_tuned_first(tmp_path, encoder):
    raw = write_raw(tmp_path / "raw")
    events = []
    distill(encoder, data=raw, on_event=events.append, **QUICK)
    out = tmp_path / "hrkd-out"
    assert sorted(p.name for p in out.iterdir()) == ["dataset", "student", "teacher"]
    texts = [e.text for e in events if isinstance(e, Note)]
    assert any("plain encoder; fine-tuning it first, into hrkd-out" in t for t in texts)
    assert json.loads((out / "student" / "hrkd.json").read_text())["data"]["path"] == "../dataset"
    assert json.loads((out / "teacher" / "hrkd.json").read_text())["options"]["epochs"]["value"] == 6

    # Again, with another student: dataset and teacher are reused.
    before = {f: f.stat().st_mtime_ns for f in [*(out / "teacher").iterdir(), *(out / "dataset").iterdir()]}
    events.clear()
    distill(encoder, data=raw, out=tmp_path / "other", on_event=events.append, **{**QUICK, "student": "1x32"})
    assert any("teacher is up to date" in e.text for e in events if isinstance(e, Note))
    assert {f: f.stat().st_mtime_ns for f in before} == before

    # A different teacher is replaced only with --force.
    changed = {**QUICK, "teacher_epochs": 1}
    with pytest.raises(OutputError, match=r"trained with --epochs 6; use it .* --teacher .*--force"):
        distill(encoder, data=raw, out=tmp_path / "third", **changed)
    distill(encoder, data=raw, out=tmp_path / "third", force=True, **changed)
    assert json.loads((out / "teacher" / "hrkd.json").read_text())["options"]["epochs"]["value"] == 1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"teacher_epochs": 4, "probe": False}, ["--teacher-epochs", "--no-probe"]),
        ({"recipe": "paper", "teacher_learning_rate": 1e-4}, ["--teacher-learning-rate"]),
        ({"recipe": "paper"}, []),
    ],
)
def test_options_of_a_teacher_that_is_fine_tuned_already_are_warned_of(tmp_path, teacher, dataset, options, names):
    events = []
    run = {"epochs": 1, "student": "1x32", "max_length": 16, "allow_weak_teacher": True}
    distill(teacher, data=dataset, out=tmp_path / "out", on_event=events.append, **{**run, **options})
    warnings = [event.text for event in events if isinstance(event, Note) and event.warning]
    unused = [text.partition(" has no effect: the teacher is")[0] for text in warnings if "no effect" in text]
    assert unused == names


def test_a_missing_teacher_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=r"there is no hrkd-out.teacher yet; run hrkd teach first"):
        distill(data="x")


def test_an_impossible_student_is_an_error_before_the_teacher_is_trained(tmp_path, encoder):
    raw = write_raw(tmp_path / "raw")
    deep = str(write_encoder(tmp_path / "deep", layers=9))
    for student, words in (("9x32", "the teacher has 4 layers"), (deep, "it has 9 layers, the teacher 4")):
        with pytest.raises(HrkdError, match=words):
            distill(encoder, data=raw, student=student, max_length=16)
    assert not (tmp_path / "hrkd-out" / "teacher").exists()


def test_the_output_must_not_replace_an_input(tmp_path, encoder):
    raw = write_raw(tmp_path / "raw")
    for out in ("hrkd-out", "hrkd-out/teacher", "hrkd-out/dataset", "raw", "."):
        with pytest.raises(HrkdError, match=r"it would replace the|and will not be replaced"):
            distill(encoder, data=raw, out=out, force=True)
    assert (raw / "books.csv").exists()


def test_students_with_another_tokenizer_can_learn_from_logits_only(tmp_path, teacher, dataset):
    merged = write_encoder(tmp_path / "heads", heads=2)
    losses = first_step(run_distill(teacher, dataset, tmp_path / "s1", student=str(merged))[1]).losses
    assert losses["attention"] > 0  # heads are merged: see tests/method/losses/test_attention.py

    words = write_encoder(tmp_path / "words")
    tiny_tokenizer(extra=("zebra",)).save_pretrained(words)
    with pytest.raises(ModelError, match=r"its tokenizer is not the teacher's.*--method logits.*--student small"):
        run_distill(teacher, dataset, tmp_path / "s", student=str(words))
    assert not (tmp_path / "s").exists()
    run_distill(teacher, dataset, tmp_path / "s2", student=str(words), method="logits")
    run_distill(teacher, dataset, tmp_path / "s3", student=str(write_encoder(tmp_path / "same")))


def test_a_student_may_have_other_inputs_than_its_teacher(tmp_path, teacher, dataset):
    """DistilBERT takes no segments. Without a cache, both models' states are compared in the same padded batches."""
    student = write_encoder(tmp_path / "distilbert", "distilbert")
    tiny_tokenizer().save_pretrained(student)  # the teacher's, with segments
    _, events = run_distill(teacher, dataset, tmp_path / "s", student=str(student), cache_teacher="off")
    assert first_step(events).losses["hidden"] > 0


def test_init_is_refused_for_a_student_with_weights(tmp_path, encoder):
    with pytest.raises(UsageError, match=r"--init: --student .* has weights of its own"):
        distill(encoder, data="x", student=str(encoder), init="random")


def test_heads_that_share_keys_are_refused_before_the_teacher_is_trained(tmp_path, dataset):
    """One-line refusal of grouped-query attention; without the attention loss, such a model can be distilled."""
    config = LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, intermediate_size=64, pad_token_id=0)  # fmt: skip
    AutoModel.from_config(config).save_pretrained(tmp_path / "llama")
    tiny_tokenizer(types=False).save_pretrained(tmp_path / "llama")
    options = {**QUICK, "student": "1x32", "teacher_epochs": 1}
    with pytest.raises(ModelError, match=r"scores of llama models cannot be captured; .* --attention-weight 0"):
        distill(tmp_path / "llama", data=dataset, out=tmp_path / "s", **options)
    assert not (tmp_path / "hrkd-out").exists()
    distill(tmp_path / "llama", data=dataset, out=tmp_path / "s", **options, attention_weight=0)


@pytest.mark.parametrize(
    ("rows", "has_pairs", "options", "student"),
    [
        (FEW_ROWS, False, {}, "large"),
        (FEW_ROWS, True, {}, "large"),
        (FEW_ROWS + 1, False, {}, None),
        (FEW_ROWS + 1, True, {}, "medium"),
        (FEW_ROWS, False, {"student": "small"}, "small"),
        (FEW_ROWS + 1, True, {"student": "small"}, "small"),
        (FEW_ROWS, True, {"recipe": "paper"}, "small"),
        (FEW_ROWS, True, {"extend": "student", "method": "labels"}, None),
    ],
)
def test_few_rows_and_pairs_choose_a_larger_student(rows, has_pairs, options, student):
    texts = ["a"] * rows
    train = TextRows(texts, texts if has_pairs else None, ["x"] * rows)
    dataset = Dataset.from_rows({"books": {"train": train}}, has_pairs=has_pairs)
    assert choose_size(dataset, DistillSettings.from_options(**options), ignore).student == student
