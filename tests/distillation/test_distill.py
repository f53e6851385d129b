"""The distill stage: every method, graph and architecture, and which options it refuses."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from file_modes import unusual_modes
from hrkd_cli.choices import Graph, Means, Method
from hrkd_cli.distillation.distill import distill
from hrkd_cli.errors import OutputError
from hrkd_cli.events import Note, StepDone
from hrkd_cli.models.mean_pooling import encoder_layers
from hrkd_cli.teaching.teach import teach
from short_runs import first_step, run_distill
from tiny import ARCHITECTURES, write_encoder


def test_a_student_learns_from_its_teacher(tmp_path, teacher, dataset):
    result, events = run_distill(teacher, dataset, tmp_path / "s", epochs=6, learning_rate=3e-3, init="random")
    assert result.dev["average"]["accuracy"] > 0.9
    steps = [e for e in events if isinstance(e, StepDone)]
    for kind in ("hidden", "attention", "prediction"):
        assert steps[-1].losses[kind] < steps[0].losses[kind]
    total = sum(steps[0].losses[kind] for kind in ("hidden", "attention", "prediction", "domain"))
    assert steps[0].losses["total"] == pytest.approx(total, rel=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert encoder_layers(model.config) == 2
    assert not any("projection" in name or "graph" in name for name in load_file(tmp_path / "s" / "model.safetensors"))
    assert json.loads((tmp_path / "s" / "hrkd.json").read_text())["data"]["fingerprint"] == "made-up"
    assert "accuracy" in (tmp_path / "s" / "README.md").read_text()
    assert unusual_modes(tmp_path / "s") == {}


@pytest.mark.parametrize(
    ("options", "ratios", "layers"),
    [
        ({}, 0, []),
        ({"graph": Graph.FROZEN}, 3, [2, 3]),
        ({"graph": Graph.FROZEN, "hierarchy": False}, 3, []),
        ({"graph": Graph.UNIFORM}, 0, []),
        ({"graph": Graph.NONE}, 0, []),
        ({"method": Method.TINYBERT}, 0, []),
        ({"method": Method.LOGITS}, 0, []),
        ({"method": Method.LABELS}, 0, []),
        ({"graph": Graph.LEARNED, "graph_every": 2}, 3, [2, 3]),
        ({"graph": Graph.LEARNED, "graph_every": 2, "hierarchy": False}, 3, []),
        ({"graph": Graph.FROZEN, "means": Means.RELEASED}, 3, [2, 3]),
    ],
)
def test_each_method_and_graph_has_its_losses_and_ratios(tmp_path, teacher, dataset, options, ratios, layers):
    result, events = run_distill(teacher, dataset, tmp_path / "s", **options)
    step = first_step(events)
    assert len(step.ratios) == ratios
    assert [len(r) for r in step.layer_ratios] == layers
    for row in (*step.ratios, *step.layer_ratios):
        assert sum(row) == pytest.approx(1, abs=1e-5)
    assert ("hidden" in step.losses) == (options.get("method") not in (Method.LOGITS, Method.LABELS))
    assert result.steps == 6


@pytest.mark.parametrize(("every", "warned"), [(6, False), (7, True)])
def test_a_learned_graph_that_is_never_updated_is_warned_of(tmp_path, teacher, dataset, every, warned):
    _, events = run_distill(teacher, dataset, tmp_path / "s", graph=Graph.LEARNED, graph_every=every)
    texts = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert any("it is never updated in 6 steps" in text for text in texts) == warned


def test_the_seed_decides_the_weights(tmp_path, teacher, dataset):
    weights = []
    for n, seed in enumerate((1, 1, 2)):
        run_distill(teacher, dataset, tmp_path / str(n), seed=seed)
        weights.append(load_file(tmp_path / str(n) / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_the_result_has_the_dev_accuracy_of_the_linear_baselines(tmp_path, teacher, dataset):
    result, _ = run_distill(teacher, dataset, tmp_path / "s")
    assert result.baselines["tf-idf + logistic regression"] == 1  # the words decide
    stored = json.loads((tmp_path / "s" / "hrkd.json").read_text())["results"]["baselines"]
    assert stored == result.baselines == result.to_json()["baselines"]


def test_force_does_not_replace_the_output_of_another_stage(tmp_path, teacher, dataset):
    shutil.copytree(teacher, tmp_path / "t")
    with pytest.raises(OutputError, match="not a student folder written by hrkd"):
        distill(teacher, data="x", out=tmp_path / "t", force=True)


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "bert"])
def test_every_architecture_can_be_distilled(tmp_path, architecture, dataset):
    encoder = write_encoder(tmp_path / "e", architecture)
    teach(encoder, data=dataset, out=tmp_path / "t", epochs=1, max_length=16)
    result, events = run_distill(tmp_path / "t", dataset, tmp_path / "s", student="1x32", allow_weak_teacher=True)
    assert result.steps == 6
    assert first_step(events).losses["attention"] > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"method": "labels"}, True),
        ({"domain_weight": 0}, False),
        ({"recipe": "paper"}, False),
        ({"domains": "books"}, False),
    ],
)
def test_a_student_of_several_domains_learns_their_posterior(tmp_path, teacher, dataset, options, expected):
    _, events = run_distill(teacher, dataset, tmp_path / "s", wide=False, **options)
    assert ("domain" in first_step(events).losses) == expected
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["hrkd"].get("domain_posterior", False) == expected
    card = (tmp_path / "s" / "README.md").read_text()
    assert ("A softmax over all outputs has no meaning." in card) == (not expected)
    assert ("A softmax over all outputs is the probability of each domain and label" in card) == expected


def test_the_domain_loss_changes_no_other_loss(tmp_path, teacher, dataset):
    losses = []
    for weight in (0, 2.0, 4.0):
        _, events = run_distill(teacher, dataset, tmp_path / str(weight), wide=False, domain_weight=weight)
        losses.append(first_step(events).losses)  # all runs start from the same weights and rows
    for kind in ("hidden", "attention", "prediction"):
        assert losses[0][kind] == losses[1][kind] == losses[2][kind]
    assert losses[2]["domain"] == pytest.approx(2 * losses[1]["domain"])
    assert losses[1]["total"] == pytest.approx(losses[0]["total"] + losses[1]["domain"])


def test_a_student_learns_its_teachers_posterior_only_if_there_is_one(tmp_path, teacher, dataset):
    plain = tmp_path / "plain"
    shutil.copytree(teacher, plain)
    config = json.loads((plain / "config.json").read_text())
    assert config["hrkd"].pop("domain_posterior") is True
    (plain / "config.json").write_text(json.dumps(config))
    losses = []
    for folder in (teacher, plain):
        _, events = run_distill(folder, dataset, tmp_path / f"s-{folder.name}", wide=False, cache_teacher="off")
        losses.append(first_step(events).losses)
    assert losses[0]["domain"] != losses[1]["domain"]
    assert losses[0]["prediction"] == losses[1]["prediction"]
