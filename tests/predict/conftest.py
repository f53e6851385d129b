import pytest

from hrkd_cli import export
from tiny_folder import write_model


def exported(name, **options):
    """Return a fixture: a model whose fp32 graph lies beside it."""

    @pytest.fixture(scope="session", name=name)
    def make(tmp_path_factory):
        folder = write_model(tmp_path_factory.mktemp("runtime") / name, **options)
        export(folder, latency=False)
        return folder

    return make


student = exported("student")
foreign = exported("foreign", plain_labels=["positive", "negative"])
paired = exported("paired", pair=True)
unlike = exported("unlike", labels={"books": ("negative", "positive"), "news": ("politics", "sport", "weather")})
