"""Teaching: learns, keeps the right weights, writes a folder that transformers opens, repeats exactly."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hrkd_cli.choices import ClassWeights, Split
from hrkd_cli.command_settings import EvalSettings
from hrkd_cli.data.dataset import Dataset
from hrkd_cli.errors import DataError, ModelError, OutputError, TrainingError, UsageError
from hrkd_cli.evaluation.evaluate import evaluate_on
from hrkd_cli.evaluation.metrics import DomainScores
from hrkd_cli.events import DevScored, StageDone, StageStarted, StepDone, ignore
from hrkd_cli.method import Projections
from hrkd_cli.models.loading import load_classifier, load_tokenizer
from hrkd_cli.models.model_tokenizer import ModelTokenizer
from hrkd_cli.outputs import atomic_folder
from hrkd_cli.predict.backend import open_backend
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TeachSettings
from hrkd_cli.teaching.teach import FineTuningObjective, teach
from hrkd_cli.training import collator
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.loop import LossOutput
from hrkd_cli.training.optimizer import Optimizer
from hrkd_cli.training.tokenized_split import TokenizedSplit, tokenize_split
from hrkd_cli.training.trainer import Trainer
from tiny import ARCHITECTURES, make_dataset, write_encoder


def learn(encoder, dataset, out, on_event=ignore, **options):
    return teach(encoder, data=dataset, out=out, on_event=on_event, **{"max_length": 16, **options})


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_teacher_learns_and_its_folder_opens_anywhere(teacher, dataset):
    record = json.loads((teacher / "hrkd.json").read_text())
    assert record["results"]["best"]["dev"]["average"]["accuracy"] > 0.9
    assert record["options"]["epochs"] == {"value": 6, "from": "default"}
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    assert model.config.id2label == {0: "books/bad", 1: "books/good", 2: "music/bad", 3: "music/good"}
    assert model.config.hrkd["domains"] == {"books": ["bad", "good"], "music": ["bad", "good"]}
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    inputs = tokenizer(["this thing was great lovely"], return_tensors="pt")
    assert model(**inputs).logits[0, :2].argmax() == 1
    assert not list(teacher.glob("*.partial")) + list(teacher.glob("weights-*"))


def test_every_step_is_recorded_once(teacher):
    records = lines(teacher)
    steps = [r["step"] for r in records if "losses" in r]
    assert steps == list(range(1, 6 * 6 + 1))
    assert records[0]["losses"]["total"] > records[-2]["losses"]["total"]
    dev = [r for r in records if "dev" in r]
    assert [r["step"] for r in dev] == list(range(3, 37, 3))


def test_the_kept_step_is_the_best_one(teacher):
    record = json.loads((teacher / "hrkd.json").read_text())
    dev = {r["step"]: r["dev"] for r in lines(teacher) if "dev" in r}
    averages = {step: scores["average"]["accuracy"] for step, scores in dev.items()}
    best = max(averages, key=lambda step: (averages[step], step))
    assert record["results"]["best"]["step"] == best
    # A domain whose best step is another one has its weights kept too, and only then.
    for domain in ("books", "music"):
        by_step = {step: scores["domains"][domain]["accuracy"] for step, scores in dev.items()}
        own = max(by_step, key=lambda step: (by_step[step], step))
        assert (teacher / "best" / domain).is_dir() == (own != best)


def test_a_domains_best_weights_are_kept_when_they_are_of_another_step(tmp_path, encoder, dataset, monkeypatch):
    """Scores are made up: books is best at the first score, music and the average at the second."""
    made_up = iter([(0.9, 0.1), (0.8, 0.7), (0.5, 0.6)])

    def score(*_args):
        pair = dict(zip(("books", "music"), next(made_up), strict=True))
        return {d: DomainScores(16, value, value, (0.0, 1.0), {}) for d, value in pair.items()}

    monkeypatch.setattr("hrkd_cli.training.trainer.score_split", score)
    result = learn(encoder, dataset, tmp_path / "t", epochs=1, eval_every=2, batch_size=8)
    assert result.best_step == 4
    assert sorted(p.name for p in (tmp_path / "t" / "best").iterdir()) == ["books"]
    root, books = (load_file(f / "model.safetensors") for f in (tmp_path / "t", tmp_path / "t" / "best" / "books"))
    assert any(not torch.equal(root[name], books[name]) for name in root)


def test_same_seed_same_weights_and_another_seed_others(tmp_path, encoder, dataset):
    weights = []
    for n, seed in enumerate((1, 1, 2)):
        learn(encoder, dataset, tmp_path / str(n), epochs=1, seed=seed)
        weights.append(load_file(tmp_path / str(n) / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_the_estimate_changes_nothing(tmp_path, encoder, dataset, monkeypatch):
    learn(encoder, dataset, tmp_path / "a", epochs=1)
    monkeypatch.setattr(Trainer, "_estimate_cost", lambda *_: None)
    learn(encoder, dataset, tmp_path / "b", epochs=1)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_taught_also_from_half_precision(tmp_path, architecture, dataset):
    encoder = write_encoder(tmp_path / "e", architecture, dtype=torch.float16)
    events = []
    result = learn(encoder, dataset, tmp_path / "t", events.append, epochs=1, learning_rate=1e-3)
    state = load_file(tmp_path / "t" / "model.safetensors")
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}
    assert result.steps == 6
    kinds = [type(e) for e in events]
    assert (kinds[0], kinds[-1]) == (StageStarted, StageDone)
    assert (kinds.count(StepDone), kinds.count(DevScored)) == (6, 2)


@pytest.mark.parametrize("apart", [False, True])
def test_the_loss_is_the_sum_of_the_domains_cross_entropies(encoder, dataset, monkeypatch, apart):
    heads = DomainHeads.build(dataset.labels)
    torch.manual_seed(0)
    model = load_classifier(encoder, heads)
    cut = ModelTokenizer(model, load_tokenizer(encoder), 16)
    rows, context = tokenize_split(dataset, "train", cut), TrainContext.start(TeachSettings())
    task = FineTuningObjective(model, rows, heads, ClassWeights.NONE, context)
    if apart:
        monkeypatch.setattr(collator, "MIN_SAVED_TOKENS", 0)
        monkeypatch.setattr(collator, "MIN_SAVED_FRACTION", 0)
    with torch.no_grad():
        batch = task.collator({"books": [0, 1, 2], "music": [3]})
        assert (len(batch) > 1) == apart
        found = task.loss(batch).total.item()
        expected = 0.0
        for domain, indices, first in (("books", [0, 1, 2], 0), ("music", [3], 2)):
            rows = dataset.split(domain, "train")
            inputs = cut.tokenizer([rows.texts[i] for i in indices], padding=True, return_tensors="pt")
            labels = torch.tensor([("bad", "good").index(rows.labels[i]) for i in indices])
            logits = model(**inputs).logits[:, first : first + 2]
            expected += torch.nn.functional.cross_entropy(logits, labels).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_balanced_class_weights(encoder):
    heads = DomainHeads.build({"books": ("bad", "good")})
    train = TokenizedSplit(None, {}, {"books": np.array([0, 0, 0, 1])})
    assert train.class_weights(heads, ClassWeights.BALANCED)[0].tolist() == pytest.approx([4 / 6, 2])
    assert train.class_weights(heads, ClassWeights.NONE) is None


def test_weight_decay_spares_biases_and_normalisation(encoder):
    model = load_classifier(encoder, DomainHeads.build({"books": ("bad", "good")}))
    modules = [model, Projections(3, 4, 2)]
    decayed, spared = Optimizer(modules, TeachSettings(), 10, TrainContext.start(TeachSettings())).adamw.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for module in modules for name, p in module.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decayed["params"]} == {"weight"}
    assert all(names[id(p)].endswith("bias") or "LayerNorm" in names[id(p)] for p in spared["params"])
    assert not any("LayerNorm" in names[id(p)] for p in decayed["params"])


def test_patience_stops_a_run_that_no_longer_gets_better(tmp_path, encoder, dataset, monkeypatch):
    flat = {d: DomainScores(16, 0.5, 0.5, (0.0, 1.0), {}) for d in ("books", "music")}
    monkeypatch.setattr("hrkd_cli.training.trainer.score_split", lambda *_: flat)
    result = learn(encoder, dataset, tmp_path / "t", epochs=3, eval_every=2, patience=2)
    assert (result.steps, result.best_step) == (6, 6)


def test_accumulated_batches_make_one_step(tmp_path, encoder, dataset):
    assert learn(encoder, dataset, tmp_path / "t", epochs=1, batch_size=4, accumulate=2).steps == 6


def test_a_loss_that_is_not_a_number_stops_the_run_and_leaves_nothing(tmp_path, encoder, dataset, monkeypatch):
    model_loss = FineTuningObjective.loss

    def broken(self, batch):
        return LossOutput(model_loss(self, batch).total * float("nan"))

    monkeypatch.setattr(FineTuningObjective, "loss", broken)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan.*--learning-rate"):
        learn(encoder, dataset, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, encoder, dataset, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hrkd_cli.training.best_weights.save_file", full)
    with pytest.raises(OutputError, match=r"t: the disk is full"):
        learn(encoder, dataset, tmp_path / "t", epochs=1)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_hold_the_run_is_noticed_before_it(tmp_path, encoder, dataset, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(OutputError, match="MB of disk, but only 0 MB are free"):
        learn(encoder, dataset, tmp_path / "t", epochs=1)


def test_an_existing_output_is_refused_before_anything_else(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "hrkd.json").write_text('{"stage": "teach"}')
    with pytest.raises(OutputError, match=r"exists already.*--force"):
        teach("no-such-model", data="no-such-data", out=tmp_path / "t")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not a teacher folder written by hrkd"):
        teach("no-such-model", data="no-such-data", out=tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_models_that_cannot_be_used(tmp_path, encoder, dataset):
    with pytest.raises(ModelError, match="there is no such folder"):
        teach("./nowhere", data="x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config.json"):
        teach(tmp_path / "empty", data="x")
    (tmp_path / "empty" / "config.json").write_text((encoder / "config.json").read_text())
    with pytest.raises(ModelError, match=r"no weights \(model.safetensors\)"):
        teach(tmp_path / "empty", data="x")
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model.bin, a pickle, which is never opened"):
        teach(tmp_path / "empty", data="x")
    with pytest.raises(UsageError, match=r"--max-length 100: .*encoder takes at most 64 tokens"):
        learn(encoder, dataset, tmp_path / "t", max_length=100)


def test_a_model_that_is_not_whole_is_refused(tmp_path, encoder, dataset):
    """transformers would fill the gaps with random weights, or make up a tokenizer, without a word."""
    broken = tmp_path / "broken"
    weights = load_file(encoder / "model.safetensors")

    def attempt(changed, config=None, words=r"missing or of another shape .*; give the folder of a whole model"):
        shutil.copytree(encoder, broken)
        save_file(changed, broken / "model.safetensors", metadata={"format": "pt"})
        if config:
            old = json.loads((broken / "config.json").read_text())
            (broken / "config.json").write_text(json.dumps({**old, **config}))
        with pytest.raises(ModelError, match=words):
            learn(broken, dataset, tmp_path / "t")
        shutil.rmtree(broken)

    attempt({f"foo.{name}": t for name, t in weights.items()})
    attempt({name: t for name, t in weights.items() if "layer.3." not in name})
    attempt(weights, {"intermediate_size": 64})
    shutil.copytree(encoder, broken)
    for file in broken.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"no tokenizer in it \(tokenizer.json\)"):
        learn(broken, dataset, tmp_path / "t")


def test_a_run_does_not_touch_another_that_writes_the_same_folder(tmp_path, encoder, dataset):
    with atomic_folder(tmp_path / "t") as work:
        (work / "precious").touch()
        with pytest.raises(OutputError, match="is being written by another hrkd"):
            learn(encoder, dataset, tmp_path / "t")
        assert (work / "precious").exists()


def test_what_appears_while_a_run_writes_is_left_alone(tmp_path):
    def write():
        with atomic_folder(tmp_path / "t"):
            (tmp_path / "t").mkdir()
            (tmp_path / "t" / "thesis.txt").touch()

    with pytest.raises(OutputError, match="appeared while it was being written"):
        write()
    assert [p.name for p in tmp_path.rglob("*")] == ["t", "thesis.txt"]


def test_data_that_cannot_be_used(tmp_path, encoder):
    whole = make_dataset()
    no_dev = {"books": whole.rows["books"], "music": {"train": whole.rows["music"]["train"]}}
    data = Dataset(whole.labels, False, "x", None, no_dev)
    with pytest.raises(DataError, match="domain 'music' has no dev rows"):
        learn(encoder, data, tmp_path / "t")
    one_label = Dataset({**whole.labels, "music": ("good",)}, False, "x", None, whole.rows)
    with pytest.raises(DataError, match="domain 'music' has one label only"):
        learn(encoder, one_label, tmp_path / "t")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "--epochs: 0 is not at least 1"),
        ({"learning_rate": 0}, "--learning-rate: 0 is not above 0"),
        ({"warmup": 2}, "--warmup: 2 is not at least 0 and at most 1"),
        ({"sampling": "often"}, "--sampling: 'often' is not one of cover, balanced, temperature"),
    ],
)
def test_values_that_no_run_could_use(options, words):
    with pytest.raises(UsageError, match=words):
        TeachSettings(**options)


@pytest.mark.parametrize(("truncate", "side"), [("head", None), ("tail", "left"), ("head-tail", None)])
def test_what_is_kept_of_long_texts_stays_with_the_model(tmp_path, encoder, dataset, truncate, side):
    out = tmp_path / "t"
    result = learn(encoder, dataset, out, epochs=2, learning_rate=3e-3, max_length=7, truncate=truncate)
    assert json.loads((out / "config.json").read_text())["hrkd"]["truncate"] == truncate
    assert json.loads((out / "tokenizer_config.json").read_text()).get("truncation_side") == side
    # eval is told nothing and reads the same tokens: the score is the one that training saw.
    [scored] = evaluate_on([out], dataset, EvalSettings(split=Split.DEV)).models
    assert scored.to_json()["average"] == result.dev["average"]
    text = dataset.split("books", "dev").texts
    theirs = AutoTokenizer.from_pretrained(out)(text, truncation=True, max_length=7)["input_ids"]
    own = [e.ids for e in open_backend(out).tokenizer.encode(text)]
    assert (own == theirs) is (truncate != "head-tail")
