"""General distillation: hidden states first, on any texts, then the task."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from hrkd_cli.choices import Precision
from hrkd_cli.data.unlabelled import MoreTexts
from hrkd_cli.distillation.distill import distill, distill_on
from hrkd_cli.distillation.distill_work import Work
from hrkd_cli.distillation.general import GeneralWork, ensure_general
from hrkd_cli.errors import OutputError, UsageError
from hrkd_cli.events import Note, StageStarted, StepDone, ignore
from hrkd_cli.models.folder import model_fingerprint
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.settings import DistillSettings
from hrkd_cli.training.process_group import SINGLE_PROCESS
from hrkd_cli.training.stage import seed_everything
from hrkd_cli.training.trainer import RunContext
from tiny import make_texts, write_raw

OPTIONS = {"epochs": 1, "batch_size": 4, "max_length": 16, "learning_rate": 1e-3, "student": "2x32", "init": "random"}


class StopError(Exception):
    """Stands in for whatever ends a run."""


def stop_at(stage, step):
    def on_event(event):
        if isinstance(event, StepDone) and (event.stage, event.step) == (stage, step):
            raise StopError

    return on_event


@pytest.fixture
def texts(tmp_path):
    """100 texts in two files: 13 steps of 8 rows."""
    (tmp_path / "any").mkdir()
    lines = [f"{text} {n}" for n, text in enumerate(make_texts(100, 99)[0])]
    (tmp_path / "any" / "one.txt").write_text("\n".join(lines[:60]), encoding="utf-8")
    rows = [json.dumps({"text": line}) for line in lines[60:]]
    (tmp_path / "any" / "two.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "any"


def settings(**options):
    return DistillSettings(**{**OPTIONS, **options}).resolved()


def run(teacher, dataset, out, *, on_event=ignore, force=False, resume=False, **options):
    own = settings(**options)
    return distill_on(teacher, dataset, own, out=out, name="t", on_event=on_event, force=force, resume=resume)


def folders(parent):
    return sorted(path for path in (parent / "general").iterdir() if path.is_dir())


def same(one, other):
    one, other = load_file(one), load_file(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def work_of(teacher, dataset, own):
    seed_everything(own.seed)
    arithmetic = Arithmetic(Precision.FP32, torch.device("cpu"))
    texts = MoreTexts.read(own, dataset, ignore)
    work = Work.open(
        teacher, dataset, own, texts=texts, name="t", arithmetic=arithmetic, processes=SINGLE_PROCESS, on_event=ignore
    )
    encoders = (work.encoder, None)
    fingerprint = model_fingerprint(teacher)
    return work, GeneralWork(work.teachers, fingerprint, work.student, encoders, texts.general, own, 2), arithmetic


def test_it_teaches_hidden_states_and_leaves_the_head_alone(tmp_path, teacher, dataset, texts):
    work, general, arithmetic = work_of(teacher, dataset, settings(general=texts, general_epochs=3))
    before = {name: t.clone() for name, t in work.student.state_dict().items()}
    events = []
    (tmp_path / "run").mkdir()
    found = ensure_general(
        general,
        out=tmp_path / "run" / "s",
        force=False,
        resume=False,
        engine=(arithmetic, SINGLE_PROCESS),
        on_event=events.append,
    )
    steps = [e for e in events if isinstance(e, StepDone)]
    assert [s.step for s in steps] == list(range(1, 40))
    assert all(set(s.losses) == {"total", "hidden", "attention"} and not s.ratios for s in steps)
    started = next(e for e in events if isinstance(e, StageStarted))
    assert (started.stage, started.steps, started.domains) == ("general", 39, ("texts",))
    for kind in ("hidden", "attention"):
        assert sum(s.losses[kind] for s in steps[-3:]) < 0.8 * sum(s.losses[kind] for s in steps[:3])
    # A schedule of its own, from 0 over the peak to nearly 0.
    assert steps[0].learning_rate == 0
    assert steps[-1].learning_rate < 0.05 * max(s.learning_rate for s in steps)
    tensors = load_file(found.folder / "general.safetensors")
    names = {name.removeprefix("student.") for name in tensors if name.startswith("student.")}
    # The classifier and BERT's pooler see no hidden-state loss: neither trained nor kept.
    assert {name for name in before if name not in names} == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"
    }  # fmt: skip
    after = work.student.state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (name not in names), name
    assert all(p.requires_grad for p in work.student.parameters())
    record = json.loads((found.folder / "hrkd.json").read_text())
    assert (record["stage"], record["data"]["texts"], record["results"]["steps"]) == ("general", 100, 39)
    assert len((found.folder / "metrics.jsonl").read_text().splitlines()) == 39
    assert sorted(p.name for p in found.folder.iterdir()) == ["general.safetensors", "hrkd.json", "metrics.jsonl"]


def test_weights_and_projections_carry_over_into_the_task(tmp_path, teacher, dataset, texts):
    own = settings(general=texts)
    _, general, arithmetic = work_of(teacher, dataset, own)
    options = {"force": False, "resume": False, "engine": (arithmetic, SINGLE_PROCESS), "on_event": ignore}
    found = ensure_general(general, out=tmp_path / "s", **options)
    fresh, _, _ = work_of(teacher, dataset, own)
    task = fresh.run(RunContext(tmp_path, tmp_path / "s", arithmetic), ignore, found).objective
    tensors = load_file(found.folder / "general.safetensors")
    state, projections = fresh.student.state_dict(), task.projections.state_dict()
    assert all(torch.equal(state[n.removeprefix("student.")], t) for n, t in tensors.items() if n[0] == "s")
    assert {n: t for n, t in tensors.items() if n[0] == "p"}.keys() == {"projections.weight", "projections.bias"}
    assert all(torch.equal(projections[n.removeprefix("projections.")], t) for n, t in tensors.items() if n[0] == "p")


@pytest.mark.parametrize("options", [{}, {"cache_teacher": "on", "general_epochs": 2}, {"means": "released"}])
def test_killed_and_resumed_it_ends_the_same(tmp_path, teacher, dataset, texts, options):
    options = {**options, "general": texts, "checkpoint_every": 1}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = run(teacher, dataset, tmp_path / "whole" / "s", **options)
    out = tmp_path / "cut" / "s"
    for n, (stage, step) in enumerate([("general", 1), ("general", 4), ("general", 9), ("distill", 3)]):
        with pytest.raises(StopError):
            run(teacher, dataset, out, on_event=stop_at(stage, step), resume=n > 0, **options)
    notes = []
    result = run(teacher, dataset, out, resume=True, on_event=notes.append, **options)
    assert any(isinstance(n, Note) and "is up to date, not run again" in n.text for n in notes)
    (one,), (other,) = folders(tmp_path / "whole"), folders(tmp_path / "cut")
    assert one.name == other.name
    assert same(one / "general.safetensors", other / "general.safetensors")
    assert same(tmp_path / "whole" / "s" / "model.safetensors", out / "model.safetensors")
    assert result.dev == whole.dev
    data = json.loads((out / "hrkd.json").read_text())["data"]
    assert data["general"]["texts"] == 100
    assert data["general"]["steps"] == json.loads((one / "hrkd.json").read_text())["results"]["steps"]


def test_a_batch_size_that_was_found_stays(tmp_path, teacher, dataset, texts, monkeypatch):
    options = {"general": texts, "checkpoint_every": 1, "batch_size": "auto"}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("hrkd_cli.training.fit.LARGEST", 4)
    run(teacher, dataset, tmp_path / "whole" / "s", **options)
    with pytest.raises(StopError):
        run(teacher, dataset, tmp_path / "cut" / "s", on_event=stop_at("general", 3), **options)
    monkeypatch.setattr("hrkd_cli.training.fit.LARGEST", 2)
    run(teacher, dataset, tmp_path / "cut" / "s", resume=True, **options)
    (one,), (other,) = folders(tmp_path / "whole"), folders(tmp_path / "cut")
    assert same(one / "general.safetensors", other / "general.safetensors")


def test_it_is_used_again_and_a_changed_one_made_anew(tmp_path, teacher, dataset, texts):
    run(teacher, dataset, tmp_path / "a", general=texts)
    events = []
    run(teacher, dataset, tmp_path / "b", general=texts, graph="uniform", epochs=2, on_event=events.append)
    assert {e.stage for e in events if isinstance(e, StepDone)} == {"distill"}
    assert len(folders(tmp_path)) == 1
    run(teacher, dataset, tmp_path / "c", general=texts, learning_rate=2e-3)
    assert len(folders(tmp_path)) == 2
    (texts / "one.txt").write_text("another text\n", encoding="utf-8")
    run(teacher, dataset, tmp_path / "d", general=texts)
    assert len(folders(tmp_path)) == 3
    run(teacher, dataset, tmp_path / "without")
    weights = [tmp_path / name / "model.safetensors" for name in ("a", "without")]
    assert not same(*weights)


def test_a_stage_that_was_cut_off_is_not_forgotten(tmp_path, teacher, dataset, texts):
    options = {"general": texts, "checkpoint_every": 1}
    with pytest.raises(StopError):
        run(teacher, dataset, tmp_path / "s", on_event=stop_at("general", 3), **options)
    with pytest.raises(OutputError, match="a run that was cut off left a checkpoint after step 2; go on with --resume"):
        run(teacher, dataset, tmp_path / "s", **options)
    steps = []
    run(teacher, dataset, tmp_path / "s", force=True, on_event=steps.append, **options)
    assert next(e.step for e in steps if isinstance(e, StepDone)) == 1
    assert [p.suffix for p in folders(tmp_path)] == [""]


def test_without_a_checkpoint_nothing_is_left(tmp_path, teacher, dataset, texts):
    with pytest.raises(StopError):
        run(teacher, dataset, tmp_path / "s", on_event=stop_at("general", 3), general=texts)
    assert not (tmp_path / "general").exists()
    run(teacher, dataset, tmp_path / "s", general=texts)
    # One whose weights are gone is no general distillation to go on from.
    shutil.rmtree(tmp_path / "s")
    (folder,) = folders(tmp_path)
    (folder / "general.safetensors").unlink()
    with pytest.raises(OutputError, match="exists already"):
        run(teacher, dataset, tmp_path / "s", general=texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "logits"}, "--general: --method logits compares no hidden states"),
        ({"hidden_weight": 0}, "--general: --hidden-weight 0 compares no hidden states"),
        ({"general_epochs": 0}, "--general-epochs: 0 is not at least 1"),
    ],
)
def test_what_cannot_be_is_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        DistillSettings(general="texts", **options)


def test_the_output_must_not_be_the_folder_of_general_distillations(tmp_path, teacher, texts):
    raw = write_raw(tmp_path / "raw")
    with pytest.raises(UsageError, match="it would replace the general distillations"):
        distill(teacher, data=raw, out=tmp_path / "general", general=texts)
