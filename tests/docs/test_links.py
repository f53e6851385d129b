"""Links between the files of the project, also those with the repository's address."""

import tomllib
from urllib.parse import unquote

import pytest
import yaml

from markdown_pages import REPOSITORY, ROOT, anchors, links, pages

pytestmark = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="not run from a checkout")

# Pages on PyPI, where a relative link leads nowhere.
PUBLISHED = ("README.md", "runtime/README.md")


def problem(page, target):
    """Return what is wrong with a link, or None."""
    path, _, anchor = unquote(target).partition("#")
    for prefix in (f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/"):
        if path.startswith(prefix):
            file = ROOT / path.removeprefix(prefix)
            break
    else:
        if path.startswith(("https://", "http://", "mailto:")):
            return None
        if page in PUBLISHED and path:
            return "relative, so it does not work on PyPI"
        file = (ROOT / page).parent / path if path else ROOT / page
        if page.startswith("docs/") and not file.resolve().is_relative_to(ROOT / "docs"):
            return "leaves docs/, so it does not work on the site"
    if not file.exists():
        return "no such file"
    if anchor and anchor not in anchors(file):
        return "no such heading"
    return None


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_files_and_headings(page):
    found = {target: problem(page, target) for target in links(page)}
    assert {target: what for target, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("page", "target", "what"),
    [
        ("README.md", "docs/data.md", "relative, so it does not work on PyPI"),
        ("README.md", f"{REPOSITORY}/blob/main/docs/date.md", "no such file"),
        ("README.md", f"{REPOSITORY}/blob/main/docs/data.md#file-format", "no such heading"),
        ("docs/data.md", "../README.md", "leaves docs/, so it does not work on the site"),
        ("docs/data.md", "#file-format", "no such heading"),
        ("docs/data.md", "outputs.md#exit-codes", None),
        ("CONTRIBUTING.md", "docs/development.md#glossary", None),
    ],
)
def test_a_wrong_link_is_found(page, target, what):
    assert problem(page, target) == what


@pytest.mark.parametrize("page", [page for page in pages() if page != "CHANGELOG.md"])
def test_the_headings_of_a_page_differ(page):
    found = anchors(ROOT / page)
    assert {anchor for anchor in found if found.count(anchor) > 1} == set()


def test_equal_headings_are_found(tmp_path):
    (tmp_path / "page.md").write_text("# Reviews\n\n## Other\n\n### Reviews\n")
    assert anchors(tmp_path / "page.md") == ["reviews", "other", "reviews"]


def test_the_project_urls_lead_to_files():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert {url: problem("README.md", url) for url in urls.values()} == dict.fromkeys(urls.values())
    assert urls["Source"] == REPOSITORY


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    assert paper["url"].removesuffix("/").endswith(paper["doi"].removeprefix("10.18653/v1/"))
    assert paper["url"] in links("README.md")


@pytest.mark.parametrize("path", sorted(path.name for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_issue_templates_have_what_github_requires(path):
    template = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / path).read_text(encoding="utf-8"))
    if path == "config.yml":
        assert all({"name", "url", "about"} == link.keys() for link in template["contact_links"])
        assert {link["url"]: problem("README.md", link["url"]) for link in template["contact_links"]} == {
            link["url"]: None for link in template["contact_links"]
        }
    else:
        assert {"name", "description", "body"} <= template.keys()
        assert len({field["id"] for field in template["body"]}) == len(template["body"])
