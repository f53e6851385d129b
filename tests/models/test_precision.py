"""Precision of training runs."""

import platform
import subprocess
import sys

import pytest
import torch

from hrkd_cli import machine
from hrkd_cli.choices import Precision
from hrkd_cli.errors import UsageError
from hrkd_cli.models import precision
from hrkd_cli.models.precision import PrecisionPolicy, cpu_has_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu avx512f avx2", False),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("model name\t: avx512_bf16 lookalike", False),
    ],
)
def test_bf16_is_read_off_the_cpus_flags(tmp_path, monkeypatch, text, expected):
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert not cpu_has_bf16()  # no such file: not Linux
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{text}\n")
    assert cpu_has_bf16() == expected


@pytest.mark.parametrize(("there", "expected"), [(True, Precision.BF16), (False, Precision.FP32)])
def test_auto_takes_bf16_where_it_is_fast(monkeypatch, there, expected):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: there)
    assert PrecisionPolicy(Precision.AUTO, CPU).mode is expected


def test_only_matrix_products_run_in_half_precision():
    linear, values = torch.nn.Linear(4, 4), torch.randn(2, 4)
    for wanted, dtype in ((Precision.BF16, torch.bfloat16), (Precision.FP32, torch.float32)):
        policy = PrecisionPolicy(wanted, CPU)
        with policy.autocast():
            assert linear(values).dtype == dtype
            with policy.no_autocast():
                assert linear(values).dtype == torch.float32
        assert linear.weight.dtype == torch.float32
        assert policy.scaler is None
        assert policy.storage_dtype is (torch.bfloat16 if wanted is Precision.BF16 else torch.float16)


def test_fp16_needs_a_gpu():
    with pytest.raises(UsageError, match="--precision fp16: not supported for training on cpu; use bf16, fp32 or auto"):
        PrecisionPolicy(Precision.FP16, CPU)


FREED = """
import torch
from hrkd_cli.choices import Precision
from hrkd_cli.models.precision import PrecisionPolicy

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) >> 10

policy = PrecisionPolicy(Precision.FP32, torch.device("cpu"))
policy.configure_process()
blocks = [bytearray(b"x") * (1 << 20) for _ in range(200)]
blocks = blocks[::50]  # pieces in use between free ones
before = resident()
policy.release_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps freed memory")
def test_freed_memory_is_kept_for_the_next_step_until_it_is_released():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150  # of 196 MB
