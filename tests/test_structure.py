"""Rules about the shape of the code that no linter has."""

import ast
import re
import tomllib
from collections import Counter
from importlib import metadata
from pathlib import Path

import hrkd_cli

SOURCE = Path(hrkd_cli.__file__).parent
TESTS = Path(__file__).parent
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
MOST_MODULES = 14
MOST_LINES = 400
MOST_LINES_OF_A_CLASS = 200

# Modules without a test module of their own, and where they are tested instead.
TESTED_ELSEWHERE = {
    "cards.py": "data/test_dataset_folder.py",
    "choices.py": "test_options.py",
    "events.py": "cli/test_progress.py",
    "layout.py": "test_outputs.py",
    "version.py": "cli/test_main.py",
    # data
    "data/drop_reasons.py": "data/test_row_batches.py",
    # data/sources
    "data/sources/row_reader.py": "data/sources/test_json_objects.py",
    # models
    "models/device.py": "models/test_student_init.py",
    "models/model_tokenizer.py": "predict/test_tokenization.py",
    "models/torch_backend.py": "models/test_student_init.py",
    # training
    "training/context.py": "training/test_resume.py",
    "training/dev_scoring.py": "training/test_resume.py",
}
# Test modules that cover several modules, or none.
SEVERAL_MODULES = {
    "test_structure.py",
    "benchmarks/test_latency_benchmark.py",
    "benchmarks/test_study.py",
    "cli/test_bad_inputs.py",
    "cli/test_cli_generated.py",
    "cli/test_cli_startup.py",
    "distillation/test_distill_unlabeled.py",
    "distillation/test_hub_models.py",
    "docs/test_links.py",
    "docs/test_site.py",
    "docs/test_snippets.py",
    "docs/test_troubleshooting.py",
    "method/test_golden.py",
    "method/test_losses.py",
    "reporting/test_real_runs.py",
    "training/test_resume.py",
}


def name(path):
    return path.relative_to(SOURCE).as_posix()


def own_tests(path):
    folder = TESTS / path.relative_to(SOURCE).parent
    return folder / f"test_{path.stem}.py"


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


def test_every_dependency_but_optimum_is_imported():
    """optimum is for users: it opens the exported folders."""
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    nodes = [node for path in MODULES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    distributions = metadata.packages_distributions()
    found = {name for module in modules for name in distributions.get(module.partition(".")[0], [])}
    assert declared - {re.sub(r"[-_.]+", "-", name).lower() for name in found} == {"optimum"}


def test_every_module_has_a_test_module_or_is_listed():
    missing = {name(path) for path in MODULES if not own_tests(path).exists()}
    assert missing == set(TESTED_ELSEWHERE)
    assert [test for test in TESTED_ELSEWHERE.values() if not (TESTS / test).exists()] == []


def test_every_test_module_belongs_to_a_module_or_is_listed():
    tests = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    assert tests - {own_tests(path).relative_to(TESTS).as_posix() for path in MODULES} == SEVERAL_MODULES
