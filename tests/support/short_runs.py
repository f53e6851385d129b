"""Short runs of teach and distill, and what they report."""

import json

from hrkd_cli.distillation.distill import distill
from hrkd_cli.events import Note, StepDone, ignore
from hrkd_cli.teaching.teach import teach


def run_teach(encoder, dataset, out, on_event=ignore, **options):
    """Teach with a short maximum length."""
    return teach(encoder, data=dataset, out=out, on_event=on_event, **{"max_length": 16, **options})


def run_distill(teacher, dataset, out, **options):
    """Distill in a few steps; return the result and the events."""
    events = []
    options = {"epochs": 1, "batch_size": 8, "max_length": 16, "student": "2x32", "augment": 0, **options}
    result = distill(teacher, data=dataset, out=out, on_event=events.append, **options)
    return result, events


def first_step(events):
    """Return the event of the first step."""
    return next(e for e in events if isinstance(e, StepDone))


def warnings(events):
    """Return the texts of the warnings."""
    return [event.text for event in events if isinstance(event, Note) and event.warning]


def read_metrics(folder):
    """Return the records of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
