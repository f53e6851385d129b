"""Upload of a dataset or model folder to the Hugging Face hub (``hrkd push``)."""

from __future__ import annotations

import glob
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hrkd_cli.errors import OutputError, UsageError, one_line
from hrkd_cli.events import OnEvent, Progress, ignore
from hrkd_cli.layout import REPORT, DatasetFiles, ModelFiles, OnnxFiles
from hrkd_cli.outputs import matches

_NOT_UPLOADED = {ModelFiles.evaluation, REPORT}  # they quote test texts
_LOG_IN = "log in with: hf auth login (or set HF_TOKEN to a token with write access)"


@dataclass(frozen=True, slots=True)
class PushResult:
    """An uploaded folder: repository id and kind, its address, and the files that hrkd wrote."""

    id: str
    kind: str
    url: str
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        return asdict(self)


def check_pushable(folder: Path) -> str:
    """Return the kind of a folder, ``"dataset"`` or ``"model"``.

    Raises:
        OutputError: hrkd did not write the folder, or it is not finished.
    """
    if (folder / DatasetFiles.manifest).is_file():
        return "dataset"
    exported = folder / ModelFiles.onnx / OnnxFiles.export_record
    if (folder / ModelFiles.config).is_file() and ((folder / ModelFiles.run).is_file() or exported.is_file()):
        return "model"
    if (folder / OnnxFiles.export_record).is_file():
        raise OutputError(f"{folder}: this is the onnx folder of a model; push the folder above it")
    problem = "not a model or dataset folder that hrkd has finished" if folder.is_dir() else "no such folder"
    raise OutputError(f"{folder}: {problem}; name the output of prepare, teach, distill or export")


def push(folder: str | Path, id: str, *, private: bool = False, on_event: OnEvent = ignore) -> PushResult:
    """Upload a folder to the hub as one commit, with its README.md as the card.

    Only files that hrkd writes are uploaded, without results of ``evaluate`` and reports, which quote test texts. Those
    that an earlier push uploaded and that are gone are removed.

    Args:
        folder: output of prepare (becomes a dataset repository), teach, distill or export (a model repository).
        id: repository, OWNER/NAME; it is created if it does not exist.
        private: create it as a private repository.
        on_event: called with every event.

    Raises:
        UsageError: the id is not valid.
        OutputError: the folder cannot be uploaded, there is no token, or the hub refuses the upload.
    """
    folder = Path(folder)
    kind = check_pushable(folder)
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError

    patterns = list((DatasetFiles if kind == "dataset" else ModelFiles).written)
    files = sorted(
        {path.relative_to(folder).as_posix() for each in patterns for path in folder.glob(each)} - _NOT_UPLOADED
    )
    if get_token() is None:
        raise OutputError(f"{id}: no token for the hub; {_LOG_IN}")
    api = HfApi(library_name="hrkd-cli")
    try:
        on_event(Progress(f"uploading {len(files)} files"))
        repo = api.create_repo(id, repo_type=kind, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo.repo_id, repo_type=kind).private:
            raise OutputError(f"{id}: exists and is public; make it private on the hub first, or leave out --private")
        # The library's own patterns would also match files of subfolders.
        names = api.list_repo_files(repo.repo_id, repo_type=kind)
        gone = [name for name in names if matches(PurePosixPath(name), patterns) and name not in files]
        api.upload_folder(
            repo_id=repo.repo_id,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in files],
            delete_patterns=[glob.escape(name) for name in gone],
            commit_message="Upload with hrkd push",
        )
    except OutputError:
        raise
    except HFValidationError as error:
        raise UsageError(f"ID {id}: {one_line(error)}") from None
    except Exception as error:  # the HTTP client has many error types
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = f"; {_LOG_IN}" if status in (401, 403) else ""
        raise OutputError(f"{id}: the hub cannot take the upload: {one_line(error)}{advice}") from None
    return PushResult(repo.repo_id, kind, str(repo), tuple(files))
