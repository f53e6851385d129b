"""Captured features equal what the model computes, in every architecture."""

import pytest
import torch
from transformers import AutoConfig, MPNetConfig

from hrkd_cli.errors import ModelError
from hrkd_cli.models.feature_capture import FeatureCapture, check_forward
from hrkd_cli.models.loading import new_classifier
from hrkd_cli.models.model_tokenizer import ModelTokenizer, TokenBatch
from tiny import ARCHITECTURES, tiny_config, tiny_tokenizer


def make_batch() -> TokenBatch:
    ids = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return TokenBatch({"input_ids": ids, "attention_mask": mask}, mask.bool())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_captured_scores_and_hidden_states_equal_the_models_own(architecture):
    torch.manual_seed(0)
    config = tiny_config(architecture, layers=4)
    model = new_classifier(config)
    # Weights large enough that wrong scores would show after softmax.
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p.mul_(5)
    batch = make_batch()
    features = FeatureCapture(model, (2, 4), attention=True)(batch)

    eager = type(model)._from_config(type(config).from_dict(config.to_dict()), attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = eager(**batch.inputs, output_attentions=True, output_hidden_states=True)
    for scores, layer in zip(features.queries @ features.keys.mT, (2, 4), strict=True):
        assert scores.shape == (3, 4, 9, 9)
        weights = scores.masked_fill(~batch.mask[:, None, None, :], float("-inf")).softmax(dim=-1)
        difference = (weights - expected.attentions[layer - 1])[batch.mask[:, None, :].expand(-1, 4, -1)]
        assert difference.abs().max() < 1e-5
    for hidden, layer in zip(features.hidden, (0, 2, 4), strict=True):
        torch.testing.assert_close(hidden[batch.mask], expected.hidden_states[layer][batch.mask], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_captured_scores():
    model = new_classifier(tiny_config("bert"))
    features = FeatureCapture(model, (1, 2), attention=True)(make_batch())
    (features.queries @ features.keys.mT).square().mean().backward()
    assert model.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0


def test_an_architecture_without_the_attention_interface_is_an_error():
    model = new_classifier(MPNetConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                       intermediate_size=64))  # fmt: skip
    assert FeatureCapture(model, (), attention=False)(make_batch()).logits.shape == (3, 2)
    with pytest.raises(ModelError, match=r"scores of mpnet models .*--attention-weight 0.*--method logits"):
        FeatureCapture(model, (1,), attention=True)(make_batch())


def test_without_layers_only_logits_are_captured():
    features = FeatureCapture(new_classifier(tiny_config("bert")), (), attention=True)(make_batch())
    assert features.hidden is features.queries is features.keys is None


@pytest.mark.parametrize(
    ("model_type", "sizes", "problem"),
    [
        ("t5", {"d_model": 32, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4}, "decoder_start_token_id"),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, "no padding token is defined"),
    ],
)
def test_a_model_that_cannot_run_on_a_batch_is_refused_in_one_line(model_type, sizes, problem):
    model = new_classifier(AutoConfig.for_model(model_type, vocab_size=64, **sizes))
    tokenizer = ModelTokenizer(model, tiny_tokenizer(types=False), 8)
    message = rf"^the model: a {model_type} model cannot be trained here; use an encoder such as BERT: [^\n]*{problem}"
    with pytest.raises(ModelError, match=message):
        check_forward(FeatureCapture(model, (), attention=False), tokenizer, "the model")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_documented_architecture_can_run(architecture):
    model = new_classifier(tiny_config(architecture))
    tokenizer = ModelTokenizer(model, tiny_tokenizer(types=False), 8)
    check_forward(FeatureCapture(model, (1, 2), attention=True), tokenizer, "the model")


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("llama", {"num_key_value_heads": 2}),  # key heads that query heads share
        ("mobilebert", {"intra_bottleneck_size": 16, "embedding_size": 32}),  # attention narrower than hidden states
        ("mpnet", {}),  # attention of its own
    ],
)
def test_attention_of_another_form_cannot_be_compared(model_type, sizes):
    sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    model = new_classifier(AutoConfig.for_model(model_type, vocab_size=64, pad_token_id=0, **sizes))
    tokenizer = ModelTokenizer(model, tiny_tokenizer(types=False), 8)
    check_forward(FeatureCapture(model, (1, 2), attention=False), tokenizer, "the model")
    with pytest.raises(ModelError, match=f"the attention scores of {model_type} models cannot be captured"):
        check_forward(FeatureCapture(model, (1, 2), attention=True), tokenizer, "the model")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused():
    config = tiny_config()
    config.vocab_size = 30
    model = new_classifier(config)
    size = len(tiny_tokenizer())
    with pytest.raises(ModelError, match=f"its tokenizer has {size} tokens, but the model only 30 embeddings; save"):
        ModelTokenizer(model, tiny_tokenizer(), 8)
