"""The pooling layer: plain transformers code computes the same logits, from the mean of the hidden states."""

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hrkd_cli.choices import Init
from hrkd_cli.models.attention_function import use_training_kernels
from hrkd_cli.models.loading import load_classifier, new_classifier, set_heads
from hrkd_cli.models.mean_pooling import (
    MEAN_FACTOR,
    POOLED,
    POOLER_FACTOR,
    encoder_layers,
    has_pooling_layer,
    with_pooling_layer,
)
from hrkd_cli.models.student_init import build_student, student_shape
from hrkd_cli.predict.heads import DomainHeads
from tiny import tiny_config

HEADS = DomainHeads.build({"books": ["bad", "good"], "music": ["bad", "good"]})
IDS = torch.tensor([[2, 7, 9, 12, 3, 0, 0], [2, 8, 20, 11, 6, 9, 3]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}


def make_classifier(architecture="bert"):
    torch.manual_seed(0)
    config = tiny_config(architecture, layers=4)
    set_heads(config, HEADS)
    return new_classifier(config)


def logits(model):
    with torch.no_grad():
        return model(**INPUTS).logits


@pytest.mark.parametrize("architecture", POOLED)
def test_from_pretrained_computes_the_same_logits(tmp_path, architecture):
    pooled = with_pooling_layer(make_classifier(architecture))
    expected = logits(pooled)
    pooled.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(plain) is type(pooled)
    torch.testing.assert_close(logits(plain), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits(load_classifier(tmp_path, None)), expected, atol=0, rtol=0)


def test_the_pooler_reads_the_mean_of_all_tokens_but_padding():
    classifier = make_classifier()
    with torch.no_grad():
        states = classifier.bert(**INPUTS).last_hidden_state
    mask = INPUTS["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    normed = torch.nn.functional.layer_norm(MEAN_FACTOR * mean + states[:, 0], mean.shape[-1:])
    pooled = with_pooling_layer(classifier)
    with torch.no_grad():
        output = pooled.bert(**INPUTS).pooler_output
    torch.testing.assert_close(output, torch.tanh(POOLER_FACTOR * normed), atol=1e-5, rtol=0)


def test_training_kernels_and_copies_compute_the_same_logits():
    pooled = with_pooling_layer(make_classifier())
    expected = logits(pooled)
    clone = copy.deepcopy(pooled)
    use_training_kernels(pooled)
    torch.testing.assert_close(logits(pooled), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits(clone), expected, atol=0, rtol=0)


def test_the_pooling_layer_is_not_trained_and_gradients_reach_the_encoder():
    pooled = with_pooling_layer(make_classifier()).train()
    pooled(**INPUTS).logits.square().sum().backward()
    layers = pooled.bert.encoder.layer
    assert all(not p.requires_grad for p in layers[-1].parameters())
    assert all(p.grad is not None for p in layers[-2].parameters())


def test_a_pooling_layer_that_was_trained_elsewhere_is_a_layer_like_the_others(tmp_path):
    pooled = with_pooling_layer(make_classifier())
    pooled.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        plain.bert.encoder.layer[-1].attention.self.query.weight += torch.randn(32, 32)
    plain.save_pretrained(tmp_path)
    loaded = load_classifier(tmp_path, None)
    torch.testing.assert_close(logits(loaded), logits(plain), atol=0, rtol=0)
    assert encoder_layers(loaded.config) == loaded.config.num_hidden_layers == 5
    assert all(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("width", [32, 16])
def test_students_pool_like_their_teacher(tmp_path, width):
    teacher = with_pooling_layer(make_classifier())
    assert str(student_shape("base", teacher.config)) == "2x32"
    student, text = build_student(f"2x{width}", teacher, HEADS, teacher_heads=HEADS, init=Init.TEACHER, seed=1)
    assert text.startswith(f"student 2x{width}: starts from the teacher's layers 2, 4")
    assert (encoder_layers(student.config), student.config.num_hidden_layers) == (2, 3)
    layer = student.bert.encoder.layer[-1]
    assert torch.equal(layer.attention.output.dense.weight, MEAN_FACTOR * torch.eye(width))
    assert not layer.output.dense.weight.any()
    student.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(plain), logits(student), atol=1e-6, rtol=0)


def test_a_pretrained_student_gets_a_pooling_layer_and_the_teachers_head(tmp_path):
    teacher, encoder = with_pooling_layer(make_classifier()), make_classifier().bert
    encoder.save_pretrained(tmp_path)
    student, _ = build_student(str(tmp_path), teacher, HEADS, teacher_heads=HEADS, init=Init.TEACHER, seed=1)
    assert has_pooling_layer(student.config)
    torch.testing.assert_close(logits(student), logits(teacher), atol=1e-6, rtol=0)
