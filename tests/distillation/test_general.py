"""General distillation: hidden states first, on any texts, then the task."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from hrkd_cli.distillation import general
from hrkd_cli.distillation.distill import distill
from hrkd_cli.errors import OutputError, UsageError
from hrkd_cli.events import Note, StageStarted, StepDone, ignore
from hrkd_cli.settings import DistillSettings
from interrupted import StopError, stop_at
from tiny import make_texts, write_raw

OPTIONS = {"epochs": 1, "batch_size": 4, "max_length": 16, "learning_rate": 1e-3, "student": "2x32", "init": "random"}


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
    options = {**OPTIONS, **options}
    return distill(teacher, data=dataset, out=out, on_event=on_event, force=force, resume=resume, **options)


def folders(parent):
    return sorted(path for path in (parent / "general").iterdir() if path.is_dir())


def same(one, other):
    one, other = load_file(one), load_file(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_teaches_hidden_states_and_leaves_the_head_alone(tmp_path, teacher, dataset, texts, monkeypatch):
    """The phase alone: what the task would start from."""
    before, after, handed = {}, {}, {}
    phase, load = general.general_distillation, general.load_general

    def watch_phase(setup, *args, **options):
        before.update({name: t.clone() for name, t in setup.student.state_dict().items()})
        folder = phase(setup, *args, **options)
        after.update({name: t.clone() for name, t in setup.student.state_dict().items()})
        assert all(p.requires_grad for p in setup.student.parameters())
        return folder

    def watch_load(folder, objective):
        load(folder, objective)
        handed.update({f"student.{name}": t.clone() for name, t in objective.student.model.state_dict().items()})
        handed.update({f"projections.{name}": t.clone() for name, t in objective.projections.state_dict().items()})

    monkeypatch.setattr("hrkd_cli.distillation.distill.general_distillation", watch_phase)
    monkeypatch.setattr("hrkd_cli.distillation.distill.load_general", watch_load)
    events = []
    run(teacher, dataset, tmp_path / "s", general=texts, general_epochs=3, on_event=events.append)
    steps = [e for e in events if isinstance(e, StepDone) and e.stage == "general"]
    assert [s.step for s in steps] == list(range(1, 40))
    started = next(e for e in events if isinstance(e, StageStarted))
    assert (started.stage, started.steps, started.domains) == ("general", 39, ("texts",))
    for step in steps:
        assert not step.ratios
        assert step.losses["total"] == pytest.approx(step.losses["hidden"] + step.losses["attention"], rel=1e-5)
    for kind in ("hidden", "attention"):
        assert sum(s.losses[kind] for s in steps[-3:]) < 0.8 * sum(s.losses[kind] for s in steps[:3])
    # A schedule of its own, from 0 over the peak to nearly 0.
    assert steps[0].learning_rate == 0
    assert steps[-1].learning_rate < 0.05 * max(s.learning_rate for s in steps)
    (folder,) = folders(tmp_path)
    tensors = load_file(folder / "general.safetensors")
    names = {name.removeprefix("student.") for name in tensors if name.startswith("student.")}
    # The classifier and BERT's pooler see no hidden-state loss: neither trained nor kept.
    assert {name for name in before if name not in names} == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"
    }  # fmt: skip
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (name not in names), name
    assert {n for n in tensors if n.startswith("projections.")} == {"projections.weight", "projections.bias"}
    assert all(torch.equal(handed[name], tensor) for name, tensor in tensors.items())
    record = json.loads((folder / "hrkd.json").read_text())
    assert (record["stage"], record["data"]["texts"], record["results"]["steps"]) == ("general", 100, 39)
    assert record["results"]["losses"] == steps[-1].losses
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 39
    assert sorted(p.name for p in folder.iterdir()) == ["general.safetensors", "hrkd.json", "metrics.jsonl"]


@pytest.mark.parametrize("options", [{}, {"cache_teacher": "on", "general_epochs": 2}, {"means": "released"}])
def test_killed_and_resumed_it_ends_the_same(tmp_path, teacher, dataset, texts, options):
    options = {**options, "general": texts, "checkpoint_every": 1}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = run(teacher, dataset, tmp_path / "whole" / "s", **options)
    out = tmp_path / "cut" / "s"
    for n, (stage, step) in enumerate([("general", 1), ("general", 4), ("general", 9), ("distill", 3)]):
        with pytest.raises(StopError):
            run(teacher, dataset, out, on_event=stop_at(step, stage), resume=n > 0, **options)
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
    monkeypatch.setattr("hrkd_cli.training.auto_batch_size.LARGEST", 4)
    run(teacher, dataset, tmp_path / "whole" / "s", **options)
    with pytest.raises(StopError):
        run(teacher, dataset, tmp_path / "cut" / "s", on_event=stop_at(3, "general"), **options)
    monkeypatch.setattr("hrkd_cli.training.auto_batch_size.LARGEST", 2)
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
        run(teacher, dataset, tmp_path / "s", on_event=stop_at(3, "general"), **options)
    with pytest.raises(OutputError, match="a run that was cut off left a checkpoint after step 2; go on with --resume"):
        run(teacher, dataset, tmp_path / "s", **options)
    steps = []
    run(teacher, dataset, tmp_path / "s", force=True, on_event=steps.append, **options)
    assert next(e.step for e in steps if isinstance(e, StepDone)) == 1
    assert [p.suffix for p in folders(tmp_path)] == [""]


def test_without_a_checkpoint_nothing_is_left(tmp_path, teacher, dataset, texts):
    with pytest.raises(StopError):
        run(teacher, dataset, tmp_path / "s", on_event=stop_at(3, "general"), general=texts)
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
