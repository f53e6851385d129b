"""Teacher outputs computed in every step."""

import shutil

import numpy as np
from safetensors.torch import load_file, save_file

from hrkd_cli.choices import TeacherCheckpoints
from hrkd_cli.distillation.online_teacher import batches_by_length
from hrkd_cli.events import Note
from short_runs import first_step, run_distill


def test_each_domain_learns_from_its_own_teacher(tmp_path, teacher, dataset):
    """The weights in best/music give the opposite logits of the primary ones, so only music's loss changes."""
    folder = tmp_path / "t"
    shutil.copytree(teacher, folder, ignore=shutil.ignore_patterns("best"))
    other = folder / "best" / "music"
    shutil.copytree(teacher, other, ignore=shutil.ignore_patterns("best"))
    weights = load_file(other / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = -weights[name]
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})

    losses = {}
    for checkpoints in TeacherCheckpoints:
        _, events = run_distill(
            folder,
            dataset,
            tmp_path / checkpoints,
            method="logits",
            teacher_checkpoints=checkpoints,
            allow_weak_teacher=True,
        )
        warned = [e.text for e in events if isinstance(e, Note) and e.warning]
        assert [("'music'" in t) for t in warned] == ([True] if checkpoints is TeacherCheckpoints.DOMAIN else [])
        losses[checkpoints] = first_step(events).losses["prediction"]
    assert losses[TeacherCheckpoints.DOMAIN] > losses[TeacherCheckpoints.AVERAGE] + 0.01


def test_batches_have_rows_of_similar_length_and_at_most_so_many_padded_tokens():
    lengths = np.array([3, 9, 2, 9, 30])
    batches = [rows.tolist() for rows in batches_by_length(lengths, 20)]
    assert batches == [[4], [1, 3], [0, 2]]  # a row that is too long has a batch of its own
