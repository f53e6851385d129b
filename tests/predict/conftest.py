import pytest

from hrkd_cli.onnx_export.export import export
from tiny_folder import write_model


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    """A student whose fp32 graph lies beside it."""
    folder = write_model(tmp_path_factory.mktemp("runtime") / "student")
    export(folder, latency=False)
    return folder


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """A classifier of another origin, with plain labels."""
    folder = write_model(tmp_path_factory.mktemp("runtime") / "foreign", plain_labels=["positive", "negative"])
    export(folder, latency=False)
    return folder


@pytest.fixture(scope="session")
def paired(tmp_path_factory):
    """A student that reads two texts."""
    folder = write_model(tmp_path_factory.mktemp("runtime") / "paired", pair=True)
    export(folder, latency=False)
    return folder


@pytest.fixture(scope="session")
def unlike(tmp_path_factory):
    """A student whose domains have different labels."""
    labels = {"books": ("negative", "positive"), "news": ("politics", "sport", "weather")}
    folder = write_model(tmp_path_factory.mktemp("runtime") / "unlike", labels=labels)
    export(folder, latency=False)
    return folder
