import pytest

from hrkd_cli import Predictor
from hrkd_cli.onnx_export.export import export
from tiny_folder import LABELS, make_dataset, make_texts, write_csv, write_model


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with a teacher, a student exported to fp32 and int8, and a classifier with plain labels."""
    root = tmp_path_factory.mktemp("models")
    write_model(root / "teacher", seed=1)
    write_model(root / "student", seed=2)
    write_model(root / "plain", plain_labels=["Positive", "Negative"], seed=3)
    dataset = make_dataset({d: {"dev": (make_texts(4), ["negative", "positive"] * 2)} for d in LABELS})
    data = write_csv(root / "dev.csv", dataset, "dev")
    export(root / "student", int8=True, max_drop=100, latency=False, data=data)
    return root


@pytest.fixture(scope="session")
def dataset(models):
    """Texts with the teacher's labels, every fifth one swapped: the teacher's accuracy is exactly 80%."""
    teacher = Predictor(models / "teacher")
    rows = {}
    for seed, domain in enumerate(LABELS):
        texts = make_texts(40, seed)
        names = [p.label for p in teacher.predict(texts, domain=domain)]
        other = {"negative": "positive", "positive": "negative"}
        rows[domain] = {"test": (texts, [other[n] if i % 5 == 0 else n for i, n in enumerate(names)])}
    return make_dataset(rows)
