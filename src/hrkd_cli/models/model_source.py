"""Where a model comes from: a local folder, the hub, or a student's shape. Needs neither torch nor transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hrkd_cli.errors import ModelError, UsageError, one_line
from hrkd_cli.layout import DATASET_OUT, TEACHER_OUT, ModelFiles, partial_folder
from hrkd_cli.outputs import check_no_overlap, is_stage_folder, latest_checkpoint_step
from hrkd_cli.predict.model_location import locate_model, may_be_hub_id
from hrkd_cli.settings import DistillSettings

# Files of a classifier: nothing else is downloaded from a hub repository, and never a pickle.
HUB_FILES = ["config.json", "model*.safetensors*", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt",
             "spm.model", "sentencepiece*", "added_tokens.json", "hrkd.json", "best/*"]  # fmt: skip
SIZES = ("tiny", "small", "medium", "base", "large")  # names of student shapes that depend on the teacher
SHAPE = re.compile(r"(\d+)x(\d+)", re.IGNORECASE)


def resolve_model(model: str | Path, role: str = "model", *, download: bool = True) -> Path:
    """Return the local folder of a model; a hub id is downloaded, or must have been downloaded before.

    ``role`` ("teacher", "student", "model") names the model in error messages, also in the functions below.

    Raises:
        ModelError: no such folder or hub id, or it has no config or no safetensors weights.
    """
    path = Path(model)
    if not path.is_dir():
        path = _from_hub(str(model), role, download=download)
    if not (path / ModelFiles.config).is_file():
        is_in_model = (path.parent / ModelFiles.config).is_file()  # a student's onnx folder
        wanted = path.parent if is_in_model else "a folder that save_pretrained wrote, or a hub id"
        raise ModelError(f"{role} {model}: no {ModelFiles.config} in it; give {wanted}")
    if not any((path / name).is_file() for name in (ModelFiles.weights, ModelFiles.weights_index)):
        hint = "its download or copy may be incomplete"
        if pickles := sorted(p.name for p in path.glob("*.bin")):
            hint = f"only {pickles[0]}, a pickle, which hrkd never opens; convert it with transformers' save_pretrained"
        if any(path.rglob("*.onnx")):
            hint = "only ONNX files, which hrkd does not train; give the folder that they were exported from"
        raise ModelError(f"{role} {model}: no weights ({ModelFiles.weights}): {hint}")
    return path


def resolve_teacher(teacher: str | Path) -> Path:
    """Return the local folder of a teacher, see ``resolve_model``."""
    if Path(teacher) == TEACHER_OUT and not TEACHER_OUT.exists():
        raise ModelError(f"--teacher: there is no {TEACHER_OUT} yet; run hrkd teach first, or give a plain encoder")
    return resolve_model(teacher, "teacher")


def resolve_extended(student: str, teacher: str | Path) -> Path:
    """Return the local folder of the student of ``--extend``.

    Raises:
        UsageError: a teacher is given too.
        ModelError: it is not a student that hrkd distilled.
    """
    if Path(teacher) != TEACHER_OUT:
        raise UsageError(f"--teacher {teacher}: --extend learns from labels and the student itself; remove --teacher")
    folder = resolve_model(student, "student")
    if not is_stage_folder(folder, "distill"):
        raise ModelError(f"--extend {student}: not a student that hrkd distilled; give the folder of one")
    return folder


def check_folders(teacher: str | Path, inputs: Mapping[str, Path], out: Path, settings: DistillSettings) -> Path:
    """Check that the folders of a distillation do not overlap; return that of the teacher, or the student to extend.

    ``inputs`` are other folders that the run reads, by description.

    Raises:
        UsageError: ``out`` would replace something that the run reads, or the student has weights and ``--init`` is
            given.
        ModelError: there is no teacher, or no student to extend.
    """
    has_weights = student_spec_is_path(settings.student)
    if has_weights and settings.init is not None:
        raise UsageError(f"--init: --student {settings.student} has weights of its own; leave out --init")
    path = resolve_teacher(teacher) if settings.extend is None else resolve_extended(settings.extend, teacher)
    others = {
        "teacher" if settings.extend is None else "student to extend": path,
        "dataset": DATASET_OUT,
        "trained teacher": TEACHER_OUT,
        **inputs,
    }
    if has_weights:
        others["initial student"] = resolve_model(str(settings.student), "student")
    if settings.unlabelled is not None:
        others["unlabeled texts"] = Path(settings.unlabelled)
    check_no_overlap(out, others)
    return path


def check_student(folder: Path) -> None:
    """Raise ModelError if there is no such student folder."""
    if not folder.is_dir():
        hint = "name a student's folder, or run hrkd distill first"
        if latest_checkpoint_step(partial_folder(folder)) is not None:
            hint = "an interrupted run left a checkpoint; finish it with hrkd distill --resume"
        raise ModelError(f"{folder}: no such folder; {hint}")


def check_classifier(path: str | Path) -> None:
    """Raise ModelError unless there is a model folder, an ``onnx`` folder, an ``.onnx`` file or a hub id."""
    if locate_model(path) is None:
        resolve_model(path)


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers and width of a student."""

    layers: int
    width: int

    def __str__(self) -> str:
        """Return the command line's spelling, LAYERSxWIDTH."""
        return f"{self.layers}x{self.width}"


def parse_shape(text: str) -> Shape | None:
    """Read LAYERSxWIDTH; None when ``text`` is something else (a folder or a hub id)."""
    match = SHAPE.fullmatch(text.strip())
    return Shape(int(match[1]), int(match[2])) if match else None


def student_spec_is_path(spec: str | None) -> bool:
    """Return whether ``--student`` names a model rather than a shape."""
    return spec is not None and spec not in SIZES and parse_shape(spec) is None and bool(Path(spec).name)


def _from_hub(model: str, role: str, *, download: bool) -> Path:
    if Path(model).exists():
        raise ModelError(f"{role} {model}: this is a file; give its folder")
    if not may_be_hub_id(model):
        raise ModelError(f"{role} {model}: no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        # Without a network, the download is from the cache, too.
        return Path(snapshot_download(model, allow_patterns=HUB_FILES, local_files_only=not download))
    except GatedRepoError:
        problem = "accept its terms on the hub first, then run hf auth login"
    except (RepositoryNotFoundError, HFValidationError):
        problem = "no such folder here and no such model on the hub"
    except LocalEntryNotFoundError:
        problem = "no such folder here, and the hub cannot be reached; give a local folder"
        if not download:
            problem = f"not on this machine; download it with: hf download {model}"
    except Exception as error:  # the HTTP client has many error types
        problem = f"no such folder here, and the hub answered: {one_line(error)}"
    raise ModelError(f"{role} {model}: {problem}")
