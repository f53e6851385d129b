"""AdamW's parameter groups."""

from hrkd_cli.method import Projections
from hrkd_cli.models.loading import load_classifier
from hrkd_cli.predict.heads import DomainHeads
from hrkd_cli.settings import TeachSettings
from hrkd_cli.training.context import TrainContext
from hrkd_cli.training.optimizer import Optimizer


def test_weight_decay_does_not_apply_to_biases_and_norms(encoder):
    model = load_classifier(encoder, DomainHeads.build({"books": ("bad", "good")}))
    modules = [model, Projections(3, 4, 2)]
    decayed, spared = Optimizer(
        modules, TeachSettings(), 10, TrainContext.start(TeachSettings()), learning_rate=1e-3
    ).adamw.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for module in modules for name, p in module.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decayed["params"]} == {"weight"}
    assert all(names[id(p)].endswith("bias") or "LayerNorm" in names[id(p)] for p in spared["params"])
    assert not any("LayerNorm" in names[id(p)] for p in decayed["params"])
