"""The documentation site, built as `make docs` builds it."""

import os
import subprocess
import sys

import pytest

from markdown_pages import ROOT, pages

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="not run from a checkout")


def test_the_site_has_every_page_and_no_broken_link(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}
    assert built >= {page.removeprefix("docs/").removesuffix(".md") for page in pages() if page.startswith("docs/")} - {
        "index"
    }
