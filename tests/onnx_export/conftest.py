import json
import shutil

import pytest

from exporting import FORMAT_OPTIONS, export, write_splits
from hrkd_cli import Predictor
from hrkd_cli.onnx_export import recipe_search
from tiny_folder import CONFIGS, LABELS, make_dataset, make_texts, write_csv, write_model


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A student, and dev data on which it makes no mistake."""
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
    """A copy of the student whose hrkd.json names the data."""
    shutil.copytree(made / "student", tmp_path / "student")
    shutil.copy(made / "dev.csv", tmp_path / "dev.csv")
    (tmp_path / "student/hrkd.json").write_text(json.dumps({"data": {"path": "../dev.csv", "fingerprint": "x"}}))
    return tmp_path / "student"


@pytest.fixture(scope="session")
def split_data(made, tmp_path_factory):
    """Data with a train split; the student makes no mistake on dev."""
    student = Predictor(made / "student")
    # "page" and "cold" occur only in dev.
    train = [t for t in make_texts(60, 3) if "page" not in t and "cold" not in t]
    return write_splits(
        tmp_path_factory.mktemp("split_data") / "raw",
        {"train": train, "dev": list(dict.fromkeys(make_texts(40, 4)))},
        label=lambda domain, text: student.predict([text], domain=domain)[0].label,
    )


@pytest.fixture(scope="session")
def all_formats(made, tmp_path_factory):
    """A student's folder with a file of each format, and the result of its export."""
    root = tmp_path_factory.mktemp("all_formats")
    shutil.copytree(made / "student", root / "student")
    formats = dict.fromkeys(FORMAT_OPTIONS.values(), True)
    result = export(root / "student", **formats, data=made / "dev.csv", max_drop=100, target="avx512-vnni")
    return root / "student", result


@pytest.fixture(scope="session", params=list(CONFIGS))
def exported(request, tmp_path_factory):
    """An architecture, a student of it with fp32 and int8 files, and the result of its export."""
    root = tmp_path_factory.mktemp(request.param)
    folder = write_model(root / "student", architecture=request.param)
    dataset = make_dataset({d: {"dev": (make_texts(4), ["negative", "positive"] * 2)} for d in LABELS})
    data = write_csv(root / "dev.csv", dataset, "dev")
    return request.param, folder, export(folder, int8=True, max_drop=100, data=data)


@pytest.fixture
def other_weights(tmp_path, monkeypatch):
    """Make every recipe write the fp32 file of another model, so that accuracy is lost; return its folder."""
    other = write_model(tmp_path / "other", seed=9)
    export(other)

    def write_other_model(source, target, *_):
        shutil.copy(other / "onnx/model.onnx", target)

    monkeypatch.setattr(recipe_search, "apply_recipe", write_other_model)
    return other
