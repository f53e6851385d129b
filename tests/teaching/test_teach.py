"""The teach stage: its loss, its folder, and runs with the same seed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from file_modes import unusual_modes
from hrkd_cli.errors import ModelError
from hrkd_cli.events import DevScored, Note, Progress, StageDone, StageStarted, StepDone
from hrkd_cli.teaching.teach import teach
from short_runs import first_step, run_teach
from tiny import ARCHITECTURES, make_dataset, write_encoder, write_raw


def test_a_teacher_learns_and_transformers_opens_its_folder(teacher, dataset):
    record = json.loads((teacher / "hrkd.json").read_text())
    assert record["results"]["best"]["dev"]["average"]["accuracy"] > 0.9
    assert record["options"]["epochs"] == {"value": 6, "from": "argument"}
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    assert model.config.id2label == {0: "books/bad", 1: "books/good", 2: "music/bad", 3: "music/good"}
    assert model.config.hrkd["domains"] == {"books": ["bad", "good"], "music": ["bad", "good"]}
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    inputs = tokenizer(["this thing was great lovely"], return_tensors="pt")
    assert model(**inputs).logits[0, :2].argmax() == 1
    assert not list(teacher.glob("*.partial")) + list(teacher.glob("weights-*"))


def test_a_damaged_tokenizer_is_an_error_before_the_data_is_prepared(tmp_path, encoder):
    damaged = shutil.copytree(encoder, tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text('{"a":')
    raw = write_raw(tmp_path / "raw")
    with pytest.raises(ModelError, match="damaged: no tokenizer that transformers can open"):
        teach(damaged, data=raw)
    assert not Path("hrkd-out").exists()


def test_other_users_can_read_a_teacher(teacher):
    assert unusual_modes(teacher) == {}


def test_the_seed_decides_the_weights_of_a_teacher(tmp_path, encoder, dataset):
    weights = []
    for n, seed in enumerate((1, 1, 2)):
        run_teach(encoder, dataset, tmp_path / str(n), epochs=1, seed=seed)
        weights.append(load_file(tmp_path / str(n) / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_can_be_fine_tuned_from_half_precision(tmp_path, architecture, dataset):
    encoder = write_encoder(tmp_path / "e", architecture, dtype=torch.float16)
    events = []
    result = run_teach(encoder, dataset, tmp_path / "t", events.append, epochs=1, learning_rate=1e-3)
    state = load_file(tmp_path / "t" / "model.safetensors")
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}
    assert result.steps == 6
    kinds = [type(e) for e in events if not isinstance(e, Note | Progress)]
    assert (kinds[0], kinds[-1]) == (StageStarted, StageDone)
    assert (kinds.count(StepDone), kinds.count(DevScored)) == (6, 2)


@pytest.mark.parametrize(
    ("domains", "domain_weight"), [(("books", "music"), 0.5), (("books", "music"), 0), (("books",), 0.5)]
)
def test_a_teacher_of_several_domains_learns_their_posterior(tmp_path, encoder, domains, domain_weight):
    events = []
    dataset, expected = make_dataset(domains=domains), domain_weight > 0 and len(domains) > 1
    run_teach(encoder, dataset, tmp_path / "t", events.append, epochs=1, domain_weight=domain_weight, cosine_loss=False)
    losses = {"total", "label", "domain"} if expected else {"total"}
    assert set(first_step(events).losses) == losses
    for config in (tmp_path / "t").rglob("config.json"):  # also those of the best step of a domain
        assert json.loads(config.read_text())["hrkd"].get("domain_posterior", False) == expected
