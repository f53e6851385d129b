import pytest

from hrkd_cli import export
from tiny_folder import write_model


def exported(name, **options):
    """Return a fixture: a model folder, exported to fp32."""

    @pytest.fixture(scope="session", name=name)
    def make(tmp_path_factory):
        folder = write_model(tmp_path_factory.mktemp("exported") / name, **options)
        export(folder, latency=False)
        return folder

    return make


student = exported("student")
plain = exported("plain", plain_labels=["positive", "negative"])
paired = exported("paired", pair=True)
different_labels = exported(
    "different_labels", labels={"books": ("negative", "positive"), "news": ("politics", "sport", "weather")}
)
