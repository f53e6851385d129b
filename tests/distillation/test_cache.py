"""Kept teacher outputs: the numbers that asking anew gives, whole or rebuilt, within their limit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hrkd_cli.choices import Precision, TeacherCheckpoints
from hrkd_cli.distillation import cache_files
from hrkd_cli.distillation.cache import TeacherCache
from hrkd_cli.distillation.cache_files import Shard, make_room, plan_shards
from hrkd_cli.distillation.cached_teachers import CachedTeachers
from hrkd_cli.distillation.distill import distill_on
from hrkd_cli.distillation.teacher_side import AskedTeachers
from hrkd_cli.distillation.teachers import open_teachers
from hrkd_cli.errors import OutputError, UsageError
from hrkd_cli.events import Note, Progress
from hrkd_cli.models.encoding import make_encoder
from hrkd_cli.models.precision import Arithmetic
from hrkd_cli.models.unpadded import Layout, SideBySide
from hrkd_cli.settings import DistillSettings, TeachSettings
from hrkd_cli.teaching.teach import teach_on
from hrkd_cli.training.process_group import SINGLE_PROCESS
from hrkd_cli.training.rows import picks_of
from hrkd_cli.training.scoring import encode_split
from tiny import ARCHITECTURES, write_encoder

CPU = torch.device("cpu")


def make_cache(folder, teacher, dataset, *, layers=(2, 4), attention=True, derived=True):
    teachers = open_teachers(teacher, dataset, checkpoints=TeacherCheckpoints.DOMAIN, device=CPU, name="t")
    encoder = make_encoder(teachers.root, teachers.tokenizer, 16)
    rows = (encoder, encode_split(dataset, "train", encoder).encoded)
    arithmetic = Arithmetic(Precision.FP32, CPU)
    options = {"layers": layers, "attention": attention, "derived": derived, "arithmetic": arithmetic}
    cache = TeacherCache(folder, teachers, rows, processes=SINGLE_PROCESS, **options)
    return cache, teachers, rows


def compare(cache, teachers, rows, layers):
    """Return the largest relative difference between kept and asked signals, by kind."""
    encoder, encoded = rows
    asked = AskedTeachers(teachers, layers, attention=True, rows=rows, own_tokenizer=False, pad_to=None, device=CPU)
    picks = picks_of({"books": [5, 0, 17], "music": [3, 30]}, SINGLE_PROCESS)
    batch = encoder.collate_rows([(encoded[d], n) for d, n in picks], CPU)
    numbers = torch.tensor([0, 0, 0, 1, 1])
    read = CachedTeachers(cache)
    found, expected = read.signals(read.load(picks, batch), numbers), asked.signals(asked.load(picks, batch), numbers)
    mask = batch.mask
    worst = {}
    for kind in ("hidden", "queries", "keys"):
        by_layer = [getattr(s, kind) if kind == "hidden" else getattr(s, kind)[0] for s in (found, expected)]
        for one, other in zip(*by_layer, strict=True):
            one, other = (t if kind == "hidden" else t.transpose(1, 2) for t in (one.float(), other))
            worst[kind] = max(worst.get(kind, 0), ((one - other)[mask].norm() / other[mask].norm()).item())
    worst["logits"] = (found.logits - expected.logits).abs().max().item()
    return worst


def compare_side_by_side(cache, teachers, rows, layers, domains=("books", "music")):
    """Return the largest relative difference of kept and asked signals of rows side by side from padded ones."""
    encoder, encoded = rows
    read = CachedTeachers(cache)
    asked = AskedTeachers(teachers, layers, attention=True, rows=rows, own_tokenizer=False, pad_to=None, device=CPU)
    lengths = {domain: own.lengths() for domain, own in encoded.items()}
    picks = picks_of({domain: [5, 0, 17, 3] for domain in domains}, SINGLE_PROCESS)
    picks.sort(key=lambda pick: lengths[pick[0]][pick[1]])
    layout = Layout.of(np.array([lengths[domain][row] for domain, row in picks]), [3, len(picks) - 3])
    own = [(encoded[domain], row) for domain, row in picks]
    padded, beside = encoder.collate_rows(own, CPU), encoder.side_by_side(own, layout, SideBySide(0, types=True))
    numbers = torch.tensor([("books", "music").index(domain) for domain, _ in picks])
    expected = asked.signals(asked.load(picks, padded), numbers)
    worst = 0.0
    for side in (read, asked):
        found = side.signals(side.load(picks, beside), numbers)
        pairs = [(found.hidden[:, 0], expected.hidden[:, padded.mask]), (found.logits, expected.logits)]
        for kind in ("queries", "keys"):
            (whole,) = getattr(expected, kind)
            for group, one in zip(layout.groups, getattr(found, kind), strict=True):
                mask = padded.mask[group.rows, : group.length]
                other = whole[:, group.rows, :, : group.length].transpose(2, 3)
                pairs.append((one.transpose(2, 3)[:, mask], other[:, mask]))
        assert all(a.shape == b.shape for a, b in pairs)
        worst = max(worst, *(((a.float() - b).norm() / b.norm()).item() for a, b in pairs))
    return worst


@pytest.mark.parametrize("derived", [True, False])
def test_rows_side_by_side_are_read_as_they_stand(tmp_path, teacher, dataset, derived):
    cache, teachers, rows = make_cache(tmp_path / "cache", teacher, dataset, derived=derived)
    assert bool(cache.kept.scored) != derived
    cache.build(lambda _: None)
    assert compare_side_by_side(cache, teachers, rows, (2, 4)) < 1e-3
    assert compare_side_by_side(cache, teachers, rows, (2, 4), domains=("music",)) < 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_kept_is_what_the_teacher_shows(tmp_path, dataset, architecture):
    encoder = write_encoder(tmp_path / "e", architecture, layers=4)
    teach_on(encoder, dataset, TeachSettings(epochs=1, max_length=16), out=tmp_path / "t", name="e")
    cache, teachers, rows = make_cache(tmp_path / "cache", tmp_path / "t", dataset)
    assert cache.build(lambda _: None) == cache.rows == sum(len(e) for e in rows[1].values())
    worst = compare(cache, teachers, rows, (2, 4))
    assert max(worst[kind] for kind in ("hidden", "queries", "keys")) < 1e-3  # 16 bits
    assert worst["logits"] < 1e-5  # other batches, same weights
    # ModernBERT turns queries and keys by position and normalises first: they are kept themselves.
    expected = {(0, 2, 4): (2, 4)} if architecture == "modernbert" else {(0, 2, 4, 1, 3): ()}
    assert {cache.kept.states: cache.kept.scored} == expected


def test_each_domain_has_its_own_teachers_outputs(tmp_path, teacher, dataset):
    import shutil

    from safetensors.torch import save_file

    folder = tmp_path / "t"
    shutil.copytree(teacher, folder, ignore=shutil.ignore_patterns("best"))
    other = folder / "best" / "music"
    shutil.copytree(teacher, other, ignore=shutil.ignore_patterns("best"))
    state = load_file(other / "model.safetensors")
    save_file({name: t * 1.5 for name, t in state.items()}, other / "model.safetensors", metadata={"format": "pt"})
    cache, teachers, rows = make_cache(tmp_path / "cache", folder, dataset)
    assert teachers.models["music"] is not teachers.models["books"]
    cache.build(lambda _: None)
    assert max(compare(cache, teachers, rows, (2, 4)).values()) < 3e-3
    assert compare_side_by_side(cache, teachers, rows, (2, 4)) < 1e-3  # two teachers, asked padded


def run(teacher, dataset, out, **options):
    events = []
    options = {"epochs": 2, "batch_size": 8, "max_length": 16, "student": "2x32", **options}
    distill_on(teacher, dataset, DistillSettings(**options).resolved(), out=out, name="t", on_event=events.append)
    return load_file(out / "model.safetensors"), [e.text for e in events if isinstance(e, Note)], events


def folder_of(tmp_path):
    (folder,) = (tmp_path / "teacher-cache").iterdir()
    return folder


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_weights_do_not_depend_on_whether_outputs_were_there(tmp_path, teacher, dataset):
    first, notes, events = run(teacher, dataset, tmp_path / "a", cache_teacher="on")
    assert any("computed once and kept in" in n for n in notes)
    built = [e for e in events if isinstance(e, Progress)]
    assert built[-1].done == built[-1].total > 0
    second, notes, events = run(teacher, dataset, tmp_path / "b", cache_teacher="on")
    assert any("read from" in n for n in notes)
    assert not [e for e in events if isinstance(e, Progress)]
    assert same(first, second)
    # Another length is another key.
    run(teacher, dataset, tmp_path / "c", cache_teacher="on", max_length=12)
    assert len(list((tmp_path / "teacher-cache").iterdir())) == 2
    # And so are the other ends of the texts that it cuts.
    run(teacher, dataset, tmp_path / "d", cache_teacher="on", max_length=12, truncate="tail")
    assert len(list((tmp_path / "teacher-cache").iterdir())) == 3


@pytest.mark.parametrize("damage", ["states", "small", "record", "short", "foreign", "leftover"])
def test_damage_is_noticed_and_repaired(tmp_path, teacher, dataset, damage):
    expected, _, _ = run(teacher, dataset, tmp_path / "a", cache_teacher="on")
    folder = folder_of(tmp_path)
    if damage in ("states", "small"):
        file = folder / ("00001.bin" if damage == "states" else "00001.safetensors")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    elif damage == "record":
        (folder / "00000.json").write_text("{")
    elif damage == "short":
        (folder / "00000.bin").write_bytes((folder / "00000.bin").read_bytes()[:-2])
    elif damage == "foreign":
        index = json.loads((folder / "cache.json").read_text())
        index["key"]["teachers"] = {}
        (folder / "cache.json").write_text(json.dumps(index))
    else:
        (folder / ".00000.bin").write_bytes(b"cut off")
        (folder / "00000.json").unlink()
    found, _, events = run(teacher, dataset, tmp_path / "b", cache_teacher="on")
    rebuilt = [e for e in events if isinstance(e, Progress)][-1].total
    rows = {domain: len(dataset.split(domain, "train")) for domain in dataset.domains}
    assert rebuilt == (
        sum(rows.values())
        if damage == "foreign"
        else rows["music" if damage[0] == "s" and damage != "short" else "books"]
    )
    assert same(found, expected)
    assert not list(folder.glob(".0*"))


def test_auto_keeps_what_pays_and_says_so(tmp_path, teacher, dataset, monkeypatch):
    rates = {"value": (100.0, 5000.0)}
    monkeypatch.setattr("hrkd_cli.distillation.side_choice.measure_rates", lambda *_: rates["value"])
    _, notes, _ = run(teacher, dataset, tmp_path / "x" / "a")
    assert any("kept in" in n and "reading 5,000 examples/s, computing 100" in n for n in notes)
    rates["value"] = (100.0, 150.0)
    _, notes, _ = run(teacher, dataset, tmp_path / "y" / "a")
    assert any("computed at every step (reading 150" in n for n in notes)
    assert not (tmp_path / "y" / "teacher-cache").exists()
    _, notes, _ = run(teacher, dataset, tmp_path / "z" / "a", epochs=1)
    assert any("one epoch would read them once only" in n for n in notes)
    # What is there already is read, whatever it is worth.
    _, notes, _ = run(teacher, dataset, tmp_path / "x" / "b", epochs=1)
    assert any("read from" in n for n in notes)


def test_rates_are_measured_on_real_batches(tmp_path, teacher, dataset):
    from hrkd_cli.distillation.cache import measure_rates

    cache, _, _ = make_cache(tmp_path / "cache", teacher, dataset)
    assert min(measure_rates(cache, tmp_path / "cache")) > 0
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_limit_holds(tmp_path, teacher, dataset):
    _, notes, _ = run(teacher, dataset, tmp_path / "a", cache_limit=1e-6)
    assert any("computed at every step" in n and "--cache-limit is 1e-06 GB" in n for n in notes)
    with pytest.raises(OutputError, match="--cache-teacher on: the teacher's outputs take"):
        run(teacher, dataset, tmp_path / "b", cache_limit=1e-6, cache_teacher="on")
    assert not (tmp_path / "b").exists()


def test_a_disk_too_small_for_queries_and_keys_holds_what_they_come_from(tmp_path, teacher, dataset, monkeypatch):
    from hrkd_cli.distillation import side_choice

    sizes = {}
    for derived in (False, True):
        monkeypatch.setattr(side_choice, "_free", lambda _, d=derived: 10**9 if not d else sizes[False] - 1)
        _, notes, _ = run(teacher, dataset, tmp_path / str(derived) / "a", cache_teacher="on")
        (folder,) = (p for p in (tmp_path / str(derived) / "teacher-cache").iterdir() if p.is_dir())
        sizes[derived] = sum(file.stat().st_size for file in folder.glob("*.bin"))
        assert any("computed once and kept" in n for n in notes)
        assert any("no room for queries and keys" in n for n in notes) == derived
    assert 0 < sizes[True] < sizes[False]
    # What is there is read, however full the disk is.
    monkeypatch.setattr(side_choice, "_free", lambda _: 0)
    _, notes, _ = run(teacher, dataset, tmp_path / "False" / "b", cache_teacher="on")
    assert any("read from" in n for n in notes)
    # And what must make way for it under the limit is room.
    (old,) = (tmp_path / "False" / "teacher-cache").iterdir()
    monkeypatch.setattr(side_choice, "_free", lambda _: 0 if old.exists() else 10**9)
    limit = (sizes[False] + 1000) / 1e9
    _, notes, _ = run(teacher, dataset, tmp_path / "False" / "c", cache_teacher="on", cache_limit=limit, max_length=12)
    assert not any("no room" in n for n in notes)
    monkeypatch.setattr(side_choice, "_free", lambda _: sizes[True] - 1)
    with pytest.raises(OutputError, match="the disk has"):
        run(teacher, dataset, tmp_path / "none" / "a", cache_teacher="on")


def test_the_oldest_outputs_make_way(tmp_path):
    import os

    for n, name in enumerate(("old", "middle", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "00000.bin").write_bytes(b"x" * 100)
        (tmp_path / name / "cache.json").write_bytes(b"")
        os.utime(tmp_path / name / "cache.json", (n, n))
    assert make_room(tmp_path, tmp_path / "wanted", 150, 360)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["middle", "new"]
    assert not make_room(tmp_path, tmp_path / "wanted", 400, 360)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["middle", "new"]


def test_released_means_cannot_be_kept(tmp_path):
    with pytest.raises(UsageError, match="--means released looks at padding"):
        DistillSettings(means="released", cache_teacher="on")


def test_a_full_disk_leaves_no_shard_behind(tmp_path, teacher, dataset, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache_files, "save_file", full)
        with pytest.raises(OutputError, match="disk is full"):
            run(teacher, dataset, tmp_path / "a", cache_teacher="on")
    assert sorted(p.name for p in folder_of(tmp_path).iterdir()) == [".lock", "cache.json"]
    run(teacher, dataset, tmp_path / "a", cache_teacher="on")


def test_shards_hold_every_row_once(monkeypatch):
    monkeypatch.setattr(cache_files, "SHARD_ROWS", 10)
    assert plan_shards({"a": 25, "b": 10}) == [
        Shard(0, "a", 0, 10), Shard(1, "a", 10, 10), Shard(2, "a", 20, 5), Shard(3, "b", 0, 10)
    ]  # fmt: skip


def test_rows_of_every_shard_are_found(tmp_path, teacher, dataset, monkeypatch):
    for module in ("cache_files", "cached_teachers"):
        monkeypatch.setattr(f"hrkd_cli.distillation.{module}.SHARD_ROWS", 7)
    cache, teachers, rows = make_cache(tmp_path / "cache", teacher, dataset)
    cache.build(lambda _: None)
    assert len(cache.shards) > 8
    assert max(compare(cache, teachers, rows, (2, 4)).values()) < 3e-3


def test_logits_alone_take_no_states(tmp_path, teacher, dataset):
    cache, _, _ = make_cache(tmp_path / "cache", teacher, dataset, layers=(), attention=False)
    cache.build(lambda _: None)
    assert cache.bytes == 0
    small = cache.folder.read(cache.shards[0])[1]
    assert small["logits"].shape == (len(dataset.split("books", "train")), 2)
    assert np.isfinite(small["logits"]).all()
    assert Path(cache.folder.path / "cache.json").is_file()
