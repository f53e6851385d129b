"""The report of ``hrkd info``."""

import json
from importlib import metadata

from hrkd_cli import machine
from hrkd_cli.cli import machine_info


def test_info_lists_versions_and_machine(hrkd, monkeypatch):
    monkeypatch.setattr(machine_info, "_devices", lambda: [{"device": "cpu", "name": "a cpu"}])
    found = json.loads(hrkd("info", "--json").out)
    assert found["devices"] == [{"device": "cpu", "name": "a cpu"}]
    assert set(found["packages"]) >= {"torch", "transformers", "datasets", "onnx", "onnxruntime", "optimum"}
    assert found["cpu"]["cores"] >= 1
    ran = hrkd("info")
    assert "hrkd-cli" in ran.out
    assert "a cpu" in ran.out


def test_info_works_without_packages_or_cpuinfo(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(metadata, "requires", lambda _name: ["no-such-package-here>=1", "pytest; extra == 'dev'"])
    assert machine_info._packages() == {"no-such-package-here": None}
    assert machine.instruction_sets() == []
    assert machine.cpu_name()
