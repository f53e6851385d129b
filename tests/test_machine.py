"""Facts about the machine."""

from hrkd_cli import machine


def test_the_first_value_of_each_key_of_cpuinfo_counts(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("model name : A CPU\nflags : sse avx2 avx512_vnni\n\nmodel name : another\nflags : sse\n")
    monkeypatch.setattr(machine, "CPU_INFO", info)
    assert machine.cpu_flags() == {"sse", "avx2", "avx512_vnni"}
    assert machine.instruction_sets() == ["avx2", "avx512_vnni"]
    if machine.platform.system() != "Darwin":
        assert machine.cpu_name() == "A CPU"


def test_without_cpuinfo_there_are_no_flags(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "missing")
    assert machine.instruction_sets() == []
    assert machine.cpu_name()


def test_the_description_counts_cores(monkeypatch):
    monkeypatch.setattr(machine, "cpu_name", lambda: "A CPU")
    monkeypatch.setattr(machine, "instruction_sets", lambda: ["avx2"])
    monkeypatch.setattr(machine, "usable_cpus", lambda: 1)
    assert machine.machine_name() == "A CPU, 1 core, avx2"


def test_versions_name_python_and_more_packages():
    assert {"python", "hrkd-cli", "torch", "onnx"} <= machine.package_versions("onnx").keys()
