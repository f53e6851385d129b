"""The built-in sample, and its reserved name."""

from hrkd_cli import prepare
from hrkd_cli.sample import FOLDER


def test_sample_is_a_source(tmp_path):
    result = prepare("sample", out=tmp_path / "out")
    assert list(result.domains) == ["camera", "dvdplayer", "phone", "router"]
    assert sum(c.train + c.dev + c.test for c in result.domains.values()) == 2014
    assert "CC BY 4.0" in (FOLDER / "LICENSE.md").read_text()


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    lines = "".join(f"text {n},{'good' if n % 2 else 'bad'}\n" for n in range(40))
    (tmp_path / "sample" / "mine.csv").write_text(f"text,label\n{lines}")
    monkeypatch.chdir(tmp_path)
    assert list(prepare("sample", out="out").domains) == ["mine"]
