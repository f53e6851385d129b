"""Short distillations, and what they report."""

from hrkd_cli.distillation.distill import distill
from hrkd_cli.events import Note, StepDone


def run_distill(teacher, dataset, out, **options):
    """Distill in a few steps; return the result and the events."""
    events = []
    options = {"epochs": 1, "batch_size": 8, "max_length": 16, "student": "2x32", **options}
    result = distill(teacher, data=dataset, out=out, on_event=events.append, **options)
    return result, events


def first_step(events):
    """Return the event of the first step."""
    return next(e for e in events if isinstance(e, StepDone))


def warnings(events):
    """Return the texts of the warnings."""
    return [event.text for event in events if isinstance(event, Note) and event.warning]
