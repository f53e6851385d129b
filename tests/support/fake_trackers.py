"""Small stand-ins for the libraries of ``--log-to``, which record how they are called."""

import importlib.util
import sys

WANDB = """
calls = []
class Settings(dict): pass
class Run:
    offline, url = False, "https://wandb.example/run"
    def __init__(self, options): self.summary = {}; calls.append(("init", options))
    def log(self, values, step): calls.append(("log", step, values))
    def finish(self, exit_code): calls.append(("finish", exit_code, self.summary))
def init(**options): return Run(options)
"""

MLFLOW = """
from types import SimpleNamespace
calls, runs = [], {}
def set_experiment(name): calls.append(("experiment", name))
def search_runs(filter_string, output_format):
    name = filter_string.removeprefix("attributes.run_name = '").removesuffix("'")
    return [SimpleNamespace(info=SimpleNamespace(run_id=runs[name]))] if name in runs else []
def start_run(run_id, run_name, nested): calls.append(("start", run_id)); runs.setdefault(run_name, "id-1")
def log_params(values): calls.append(("params", values))
def log_metrics(values, step=None): calls.append(("log", step, values))
def end_run(status): calls.append(("end", status))
def get_tracking_uri(): return "file:mlruns"
"""

TRACKIO = """
calls = []
def init(**options): print("noise"); calls.append(("init", options))
def log(values, step): calls.append(("log", step, values))
def finish(): print("noise"); calls.append(("finish",))
"""

# torch.utils.tensorboard itself requires the library, so that the stand-in replaces both.
TENSORBOARD = """
calls = []
class SummaryWriter:
    def __init__(self, folder, **options): calls.append(("init", folder, options))
    def add_text(self, name, text): calls.append(("text", text))
    def add_scalar(self, name, value, step): calls.append(("log", step, {name: value}))
    def add_hparams(self, options, summary, run_name): calls.append(("hparams", options, summary))
    def close(self): calls.append(("close",))
"""


def install(tracker, folder, monkeypatch):
    """Make a stand-in importable for this test; return its module, whose ``calls`` are what it was asked to do."""
    (folder / f"{tracker}.py").write_text(globals()[tracker.upper()])
    spec = importlib.util.spec_from_file_location(tracker, folder / f"{tracker}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, tracker, module)
    if tracker == "tensorboard":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return module
