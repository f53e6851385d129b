"""Cached teacher outputs: equal to the online teacher's, repaired when damaged, and built only when it is worth it."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hrkd_cli.choices import Precision, TeacherCheckpoints
from hrkd_cli.distillation import teacher_cache
from hrkd_cli.distillation.distill import distill
from hrkd_cli.distillation.loss_config import LossConfig
from hrkd_cli.distillation.online_teacher import OnlineTeacher
from hrkd_cli.distillation.teacher_cache import CachedTeacher
from hrkd_cli.distillation.teachers import open_teachers
from hrkd_cli.errors import OutputError
from hrkd_cli.events import Note, Progress
from hrkd_cli.method import LOSSES
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.models.precision import PrecisionPolicy
from hrkd_cli.settings import DistillSettings
from hrkd_cli.teaching.teach import teach
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.process_group import ProcessGroup
from hrkd_cli.training.tokenized_split import tokenize_split
from tiny import ARCHITECTURES, write_encoder

CPU = torch.device("cpu")
REFS = [("books", 5), ("books", 0), ("books", 17), ("music", 3), ("music", 30)]
BY_NAME = {loss.name: loss for loss in LOSSES}


def make_cache(
    root, teacher, dataset, *, layers=(2, 4), attention=True, domain=False, precision=Precision.FP32, change=None
):
    """Return a cache that is not built yet; ``change`` changes the examples of each domain."""
    teachers = open_teachers(teacher, dataset, checkpoints=TeacherCheckpoints.DOMAIN, device=CPU, name="t")
    tokenizer = ModelTokenizer(teachers.primary, teachers.tokenizer, 16)
    split = tokenize_split(dataset, "train", tokenizer)
    if change is not None:
        split = replace(split, examples={domain: change(examples) for domain, examples in split.examples.items()})
    names = ["prediction", *(["attention"] if attention else []), *(["domain"] if domain else [])]
    loss_config = LossConfig({BY_NAME[name]: 1.0 for name in names}, layers, 32, pad_to=None)
    online = OnlineTeacher(teachers, loss_config, split, device=CPU)
    return CachedTeacher(root, online, TrainContext(PrecisionPolicy(precision, CPU)))


def batch_of(cache, refs=REFS):
    """Return the tokens of some rows, padded."""
    split = cache.online.split
    return split.tokenizer.collate([split.examples[domain][row] for domain, row in refs], CPU)


def run_both(cache, refs):
    """Return the mask of a batch, and its cached and online outputs as (rows, tokens, ...) by layer."""
    online, batch = cache.online, batch_of(cache, refs)
    results = []
    for teacher in (cache, online):
        outputs = teacher.load(refs, batch)()
        queries, keys = (t.transpose(2, 3) for t in (outputs.queries, outputs.keys))
        results.append({"hidden": outputs.hidden, "queries": queries, "keys": keys, "logits": outputs.logits})
    return batch.mask, *results


def check_equal(cache):
    """Compare a batch of both domains, relative to the norm of each layer."""
    mask, cached, online = run_both(cache, REFS)
    torch.testing.assert_close(cached["logits"], online["logits"], atol=1e-5, rtol=0)  # other batches, same weights
    for name in ("hidden", "queries", "keys"):
        assert cached[name].dtype == torch.float16
        assert not cached[name][:, ~mask].any()
        for one, other in zip(cached[name][:, mask].float(), online[name][:, mask], strict=True):
            assert (one - other).norm() < 1e-3 * other.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_outputs_are_those_of_the_online_teacher(tmp_path, dataset, architecture):
    encoder = write_encoder(tmp_path / "e", architecture, layers=4)
    teach(encoder, data=dataset, out=tmp_path / "t", epochs=1, max_length=16)
    cache = make_cache(tmp_path / "cache", tmp_path / "t", dataset)
    assert cache.build() == sum(len(examples) for examples in cache.online.split.examples.values())
    check_equal(cache)
    # In the batches in which they were computed, outputs are equal bit for bit.
    domain, rows = cache.shards[0]
    refs = [(domain, row) for row in rows[: 1024 // cache.online.split.lengths[domain].max()]]
    mask, cached, online = run_both(cache, refs)
    assert torch.equal(cached["logits"], online["logits"])
    assert all(torch.equal(cached[n][:, mask], online[n][:, mask].half()) for n in ("hidden", "queries", "keys"))


def scale_weights(source, target, factor):
    """Copy a model folder with its weights multiplied."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    state = {name: t * factor for name, t in load_file(source / "model.safetensors").items()}
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_each_domain_has_its_own_teachers_outputs(tmp_path, teacher, dataset):
    folder = scale_weights(teacher, tmp_path / "t", 1.0)
    scale_weights(teacher, folder / "best" / "music", 1.5)
    cache = make_cache(tmp_path / "cache", folder, dataset)
    assert cache.online.teachers.models["music"] is not cache.online.teachers.models["books"]
    cache.build()
    check_equal(cache)


def test_rows_are_spread_over_shards_by_length(tmp_path, teacher, dataset, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD_BYTES", 1 << 14)
    cache = make_cache(tmp_path / "cache", teacher, dataset)
    cache.build()
    assert len(cache.shards) > 8
    files = [load_file(file) for file in sorted(cache.folder.glob("0*.safetensors"))]
    for (domain, rows), tensors in zip(cache.shards, files, strict=True):
        lengths = cache.online.split.lengths[domain][rows]
        assert (np.diff(lengths) <= 0).all()
        assert tensors["hidden"].shape[1] == tensors["keys"].shape[1] == lengths.sum()
        assert len(tensors["logits"]) == len(rows)
    for domain, examples in cache.online.split.examples.items():
        rows = np.concatenate([rows for name, rows in cache.shards if name == domain])
        assert sorted(rows) == list(range(len(examples)))
    assert cache.bytes == sum(t.numel() * t.element_size() for tensors in files for t in tensors.values())
    check_equal(cache)


def test_without_compared_layers_only_logits_are_stored(tmp_path, teacher, dataset):
    cache = make_cache(tmp_path / "cache", teacher, dataset, layers=(), attention=False)
    cache.build()
    assert [list(tensors) for tensors in cache.tensors] == [["logits"], ["logits"]]
    outputs = cache.load(REFS, batch_of(cache))()
    assert outputs.hidden is outputs.queries is outputs.keys is None
    assert outputs.logits.shape == (5, 2)


def test_domain_logits_are_cached_if_the_teacher_has_a_posterior_and_a_loss_compares_it(tmp_path, teacher, dataset):
    plain = make_cache(tmp_path / "cache", teacher, dataset, layers=(), attention=False)
    cache = make_cache(tmp_path / "cache", teacher, dataset, layers=(), attention=False, domain=True)
    assert cache.folder != plain.folder
    assert cache.bytes - plain.bytes == 4 * 2 * sum(map(len, cache.online.split.examples.values()))
    cache.build()
    cached, online = (source.load(REFS, batch_of(cache))() for source in (cache, cache.online))
    assert cached.domain_logits.shape == (5, 2)
    torch.testing.assert_close(cached.domain_logits, online.domain_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(cached.logits, online.logits, atol=1e-5, rtol=0)
    with torch.no_grad():
        outputs = cache.online.teachers.primary(**batch_of(cache).inputs).logits
    expected = outputs.view(5, 2, 2).logsumexp(dim=2)  # two domains of two labels
    best = [n for n, (domain, _) in enumerate(REFS) if cache.online.teachers.folders[domain] == teacher]
    torch.testing.assert_close(online.domain_logits[best], expected[best])


def test_a_teacher_without_a_posterior_has_no_domain_logits(tmp_path, teacher, dataset):
    folder = scale_weights(teacher, tmp_path / "t", 1.0)
    config = json.loads((folder / "config.json").read_text())
    assert config["hrkd"].pop("domain_posterior") is True
    (folder / "config.json").write_text(json.dumps(config))
    cache = make_cache(tmp_path / "cache", folder, dataset, layers=(), attention=False, domain=True)
    cache.build()
    assert [list(tensors) for tensors in cache.tensors] == [["logits"], ["logits"]]
    assert cache.load(REFS, batch_of(cache))().domain_logits is None


def test_shards_are_mapped_into_memory(tmp_path, teacher, dataset):
    cache = make_cache(tmp_path / "cache", teacher, dataset)
    cache.build()
    with Path("/proc/self/maps").open() as maps:
        assert str(cache.folder / "00000.safetensors") in maps.read()


def test_pages_that_were_read_leave_the_process_and_can_be_read_again(tmp_path, teacher, dataset):
    cache = make_cache(tmp_path / "cache", teacher, dataset)
    cache.build()

    def resident_kilobytes():
        lines = Path("/proc/self/smaps").read_text().splitlines()
        mapped = [n for n, line in enumerate(lines) if str(cache.folder) in line]
        return sum(int(next(line for line in lines[n:] if line.startswith("Rss:")).split()[1]) for n in mapped)

    for tensors in cache.tensors:
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    read = resident_kilobytes()
    cache.load(REFS, batch_of(cache))
    assert resident_kilobytes() < read / 4 < cache.bytes / 4 / 2**9
    check_equal(cache)


def test_the_key_depends_on_everything_that_outputs_depend_on(tmp_path, teacher, dataset):
    def name(folder=teacher, **options):
        return make_cache(tmp_path / "cache", folder, dataset, **options).folder.name

    def other_ids(examples):
        return [replace(examples[0], ids=examples[0].ids[::-1].copy()), *examples[1:]]

    def other_cuts(examples):  # the same ids, split into rows differently
        first, second, *others = examples
        longer = np.concatenate([first.ids[-1:], second.ids])
        return [replace(first, ids=first.ids[:-1]), replace(second, ids=longer), *others]

    def other_types(examples):
        return [replace(example, type_ids=1 - example.type_ids) for example in examples]

    names = [
        name(),
        name(scale_weights(teacher, tmp_path / "other", 1.5)),
        name(change=other_ids),
        name(change=other_cuts),
        name(change=other_types),
        name(layers=(1, 4)),
        name(attention=False),
        name(precision=Precision.BF16),
    ]
    assert len(set(names)) == len(names)
    assert name() == names[0]


def run(teacher, dataset, out, **options):
    events = []
    options = {
        "epochs": 2,
        "batch_size": 8,
        "max_length": 16,
        "student": "2x32",
        "cache_teacher": "on",
        "augment": 0,
        **options,
    }
    distill(teacher, data=dataset, out=out, on_event=events.append, **options)
    return load_file(out / "model.safetensors"), [e.text for e in events if isinstance(e, Note)], events


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def folders(tmp_path):
    return sorted(path.name for path in (tmp_path / "teacher-cache").iterdir() if path.is_dir())


def test_a_run_with_an_existing_cache_gives_the_same_weights(tmp_path, teacher, dataset):
    first, notes, events = run(teacher, dataset, tmp_path / "a")
    assert any("computed once and stored in" in n for n in notes)
    built = [e for e in events if isinstance(e, Progress) and e.task == "teacher outputs"]
    assert built[-1].done == built[-1].total > 0
    second, notes, events = run(teacher, dataset, tmp_path / "b")
    assert any("read from" in n for n in notes)
    assert not [e for e in events if isinstance(e, Progress) and e.task == "teacher outputs"]
    assert same(first, second)
    before = folders(tmp_path)
    run(teacher, dataset, tmp_path / "c", max_length=12)
    assert len(before) == len(folders(tmp_path)) == 1
    assert before != folders(tmp_path)


@pytest.mark.parametrize("damage", ["short", "long", "header", "missing", "leftover"])
def test_damaged_shards_are_computed_again(tmp_path, teacher, dataset, damage):
    expected, _, _ = run(teacher, dataset, tmp_path / "a")
    (folder,) = (tmp_path / "teacher-cache").glob("*/")
    file = folder / "00001.safetensors"
    content = file.read_bytes()
    file.write_bytes({"short": content[:-2], "long": content + b"x", "header": b"{" * len(content)}.get(damage, b""))
    if damage == "leftover":
        (folder / ".00001.safetensors").write_bytes(content[:100])
    if damage in ("missing", "leftover"):
        file.unlink()
    weights, _, events = run(teacher, dataset, tmp_path / "b")
    computed = [e for e in events if isinstance(e, Progress) and e.task == "teacher outputs"]
    assert computed[-1].total == len(dataset.split("music", "train"))
    assert same(weights, expected)
    assert file.read_bytes() == content
    assert not list(folder.glob(".0*"))


def test_an_interrupted_build_continues_with_the_missing_shards(tmp_path, teacher, dataset, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD_BYTES", 1 << 14)
    whole = make_cache(tmp_path / "whole", teacher, dataset)
    whole.build()
    cache = make_cache(tmp_path / "cut", teacher, dataset)
    write, written = save_file, []

    def killed(tensors, path):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(teacher_cache, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.build()
    assert cache.build() == sum(len(rows) for _, rows in cache.shards[3:])
    for number in range(len(cache.shards)):
        one, other = (c.folder / f"{number:05d}.safetensors" for c in (whole, cache))
        assert one.read_bytes() == other.read_bytes()


def test_processes_share_the_build(tmp_path, teacher, dataset, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD_BYTES", 1 << 14)
    whole = make_cache(tmp_path / "whole", teacher, dataset)
    whole.build()
    caches = [make_cache(tmp_path / "shared", teacher, dataset) for _ in range(2)]
    meeting, counts = threading.Barrier(2), []

    class TwoThreads(ProcessGroup):
        __slots__ = ()

        def barrier(self):
            meeting.wait(60)

    def work(rank):
        caches[rank].context = replace(caches[rank].context, processes=TwoThreads(rank, 2))
        counts.append(caches[rank].build())

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [sum(len(rows) for _, rows in whole.shards)] * 2
    for file in whole.folder.glob("0*.safetensors"):
        assert file.read_bytes() == (caches[0].folder / file.name).read_bytes()


def test_a_full_disk_leaves_no_file_behind(tmp_path, teacher, dataset, monkeypatch):
    def full(_tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(teacher_cache, "save_file", full)
        with pytest.raises(OutputError, match="disk is full"):
            run(teacher, dataset, tmp_path / "a")
    (folder,) = (tmp_path / "teacher-cache").glob("*/")
    assert not list(folder.iterdir())
    run(teacher, dataset, tmp_path / "a")


def test_removed_caches_can_still_be_read_by_the_run_that_opened_them(tmp_path, teacher, dataset):
    (tmp_path / "mine").mkdir()
    first, second = (make_cache(tmp_path, teacher, dataset, layers=layers) for layers in ((2, 4), (1, 4)))
    first.build()
    second.remove_others()
    second.build()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([second.folder.name, "mine"])
    check_equal(first)


def test_a_run_waits_for_another_that_has_locked_the_caches(tmp_path, teacher, dataset):
    one, other = (make_cache(tmp_path, teacher, dataset) for _ in range(2))
    order, noted = [], threading.Event()
    other.context = replace(other.context, on_event=lambda note: (order.append(note.text), noted.set()))

    def second():
        with other.lock():
            order.append("second")

    thread = threading.Thread(target=second)
    with one.lock():
        thread.start()
        assert noted.wait(10)
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert "another run" in order[0]
    assert order[1:] == ["first", "second"]


GB = 10**9


@pytest.mark.parametrize(
    ("options", "reads_per_row", "decided", "size", "free", "expected"),
    [
        ({}, 2, None, 1, 2, "computed once"),
        ({}, 1, None, 1, 2, "most rows are read only once"),
        ({}, 2, None, 51, 99, "they need 51 GB, more than auto's limit of 50 GB"),
        ({}, 2, None, 3, 2, "need 3.00 GB, but the disk has only 2.00 GB to spare"),
        ({"device": "cuda"}, 2, None, 1, 2, "on a GPU"),
        ({"cache_teacher": "on"}, 1, None, 51, 99, "computed once"),
        ({"cache_teacher": "on", "device": "cuda"}, 1, None, 1, 2, "computed once"),
        ({"cache_teacher": "on"}, 2, None, 3, 2, OutputError),
        ({"cache_teacher": "off"}, 2, None, 1, 2, None),
        ({"means": "released"}, 2, None, 1, 2, None),
        # A resumed run does what it did before.
        ({}, 1, True, 51, 99, "computed once"),
        ({}, 2, False, 1, 2, None),
        ({"cache_teacher": "off"}, 2, False, 1, 2, None),
        ({}, 2, True, 3, 2, OutputError),
    ],
)
def test_outputs_are_cached_if_it_is_worth_it(
    tmp_path, monkeypatch, options, reads_per_row, decided, size, free, expected
):
    device = torch.device(options.pop("device", "cpu"))

    class Cache(CachedTeacher):
        def __init__(self, root, online, context):
            self.root, self.context, self.bytes, self.folder = root, context, size * GB, root / ("0" * 16)

        def build(self):
            return 1

    monkeypatch.setattr(teacher_cache, "CachedTeacher", Cache)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=(free + 1) * GB))
    settings, events = DistillSettings(**options).resolve(), []
    context = TrainContext(SimpleNamespace(device=device), on_event=events.append)
    checkpointer = SimpleNamespace(decisions={} if decided is None else {"cached": decided})
    online = SimpleNamespace(pad_to=16 if settings.means == "released" else None)

    def choose():
        return teacher_cache.cached_or_online(
            online,
            settings.cache_teacher,
            root=tmp_path / "cache",
            reads_per_row=reads_per_row,
            checkpointer=checkpointer,
            context=context,
        )

    if expected is OutputError:
        remedy = "free some space" if decided else "free some space or use --cache-teacher off"
        with pytest.raises(OutputError, match=f"^the teacher outputs need .* GB to spare; {remedy}$"):
            choose()
        return
    assert isinstance(choose(), Cache) == (expected == "computed once")
    assert [expected in e.text for e in events] == [True] * (expected is not None)
