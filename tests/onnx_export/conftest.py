import json
import shutil

import pytest

from hrkd_cli import Predictor, export
from hrkd_cli.onnx_export import recipe_search
from tiny_folder import LABELS, make_dataset, make_texts, write_csv, write_model


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A student; data that it labels without a mistake."""
    root = tmp_path_factory.mktemp("exporting")
    write_model(root / "student")
    student = Predictor(root / "student")
    rows = {}
    for seed, domain in enumerate(LABELS):
        texts = make_texts(40, seed)
        rows[domain] = {"dev": (texts, [p.label for p in student.predict(texts, domain=domain)])}
    write_csv(root / "dev.csv", make_dataset(rows), "dev")
    return root


@pytest.fixture
def student(made, tmp_path):
    """The student in a folder of its own, whose record names the data."""
    shutil.copytree(made / "student", tmp_path / "student")
    shutil.copy(made / "dev.csv", tmp_path / "dev.csv")
    (tmp_path / "student/hrkd.json").write_text(json.dumps({"data": {"path": "../dev.csv", "fingerprint": "x"}}))
    return tmp_path / "student"


@pytest.fixture
def other_weights(tmp_path, monkeypatch):
    """Let quantization give the graph of another model, so that accuracy is lost; its folder."""
    other = write_model(tmp_path / "other", seed=9)
    export(other, latency=False)

    def worse(source, target, *_):
        shutil.copy(other / "onnx/model.onnx", target)

    monkeypatch.setattr(recipe_search, "apply_recipe", worse)
    return other
