"""Run stages on data in memory, interrupt them at a step, and compare their weights."""

import torch
from safetensors.torch import load_file

from hrkd_cli.distillation.distill import distill
from hrkd_cli.events import StepDone
from hrkd_cli.teaching.teach import teach

OPTIONS = {"epochs": 2, "batch_size": 4, "max_length": 16, "learning_rate": 1e-3, "checkpoint_every": 1}


class StopError(Exception):
    """Raised to interrupt a run."""


def stop_at(step, stage=None):
    """Return an event handler that interrupts a run at a step of ``stage``, or of any stage."""

    def on_event(event):
        if isinstance(event, StepDone) and event.step == step and stage in (None, event.stage):
            raise StopError

    return on_event


def run(stage, teacher, encoder, dataset, out, *, on_event=lambda _: None, resume=False, **options):
    """Teach, or distill into a student of 2 layers."""
    options = {**OPTIONS, **options}
    if stage == "teach":
        return teach(encoder, data=dataset, out=out, on_event=on_event, resume=resume, **options)
    options = {"student": "2x32", "augment": 0, **options}
    return distill(teacher, data=dataset, out=out, on_event=on_event, resume=resume, **options)


def weights(folder):
    """Return the weights in a model folder."""
    return load_file(folder / "model.safetensors")


def same(one, other):
    """Return whether two dicts of tensors are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
