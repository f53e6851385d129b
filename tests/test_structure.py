"""Rules about the shape of the code that no linter has."""

import ast
from collections import Counter
from pathlib import Path

import hrkd_cli

SOURCE = Path(hrkd_cli.__file__).parent
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
MOST_MODULES = 14
MOST_LINES = 400
MOST_LINES_OF_A_CLASS = 200


def name(path):
    return path.relative_to(SOURCE).as_posix()


def test_no_folder_has_too_many_modules():
    folders = Counter(path.parent for path in MODULES if path.parent != SOURCE)
    assert {name(folder): count for folder, count in folders.items() if count > MOST_MODULES} == {}


def test_every_module_has_a_name_of_its_own():
    assert [stem for stem, count in Counter(path.stem for path in MODULES).items() if count > 1] == []


def test_modules_and_classes_are_short():
    lines = {name(path): path.read_text(encoding="utf-8") for path in MODULES}
    assert {module: text.count("\n") for module, text in lines.items() if text.count("\n") > MOST_LINES} == {}
    nodes = [(module, node) for module, text in lines.items() for node in ast.walk(ast.parse(text))]
    classes = [(module, node) for module, node in nodes if isinstance(node, ast.ClassDef)]
    assert [f"{module}: {c.name}" for module, c in classes if c.end_lineno - c.lineno >= MOST_LINES_OF_A_CLASS] == []
