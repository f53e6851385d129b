"""A fake Hugging Face hub on 127.0.0.1 that serves local folders as repositories.

    with serve_hub({"datasets/acme/reviews": folder, "acme/tiny-bert": other}) as url:
        subprocess.run([...], env=hub_environment(url, tmp_path / "hf"))

The client must run in a subprocess: huggingface_hub reads its endpoint when it is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit


@contextmanager
def serve_hub(
    repos: Mapping[str, Path], uploads: Path | None = None, token: str = "hf_secret", gated: Collection[str] = ()
) -> Iterator[str]:
    """Serve folders under their repository ids (``datasets/OWNER/NAME`` or ``OWNER/NAME``); yield the endpoint.

    The files of the ``gated`` ones are refused, as long as their terms are not accepted; their metadata is public.
    Whoever has the token can create repositories and commit to them; they are folders in ``uploads``, under their ids.
    """

    class Handler(_HubHandler):
        folders: ClassVar[dict[str, Path]] = {name: Path(path) for name, path in repos.items()}
        uploads_to = uploads
        write_token = token
        gated_ids = frozenset(gated)
        private: ClassVar[set[str]] = set()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(url: str, home: Path) -> dict[str, str]:
    """Return environment variables for the hub at ``url`` and an empty cache in ``home``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    return {
        **inherited,
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }


class _HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folders: ClassVar[dict[str, Path]] = {}
    uploads_to: ClassVar[Path | None] = None
    write_token: ClassVar[str] = ""
    gated_ids: ClassVar[Collection[str]] = ()
    private: ClassVar[set[str]] = set()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        posted, path = self.rfile.read(length), urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self._json(200, {"errors": [], "warnings": []}, True)
        kind = path.rpartition("/")[0].rpartition("/")[2]
        if path != "/api/repos/create" and kind not in ("preupload", "commit"):
            return self._answer(body=True, posted=posted)
        if self.headers.get("Authorization") != f"Bearer {self.write_token}" or self.uploads_to is None:
            return self._json(401, {"error": "Invalid username or password."}, True)
        if kind == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(posted)["files"]
            ]
            return self._json(200, {"files": files}, True)
        if kind == "commit":
            return self._commit(unquote(path).split("/")[2:5], [json.loads(line) for line in posted.splitlines()])
        return self._create(json.loads(posted))

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        name = f"datasets/{repo}" if asked.get("type") == "dataset" else repo
        status, url = 409 if name in self.folders else 200, f"http://{self.headers['Host']}/{name}"
        self.folders.setdefault(name, self.uploads_to / name).mkdir(parents=True, exist_ok=True)
        if status == 200 and (asked.get("private") or asked.get("visibility") == "private"):
            self.private.add(name)
        self._json(status, {"url": url, "error": "You already created this repository"}, True)

    def _commit(self, repo: list[str], operations: list[dict[str, Any]]) -> None:
        kind, *rest = repo
        name = "/".join(([kind] if kind == "datasets" else []) + rest)
        for operation in operations:
            path = self.folders[name] / operation["value"].get("path", "")
            if operation["key"] == "file":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(operation["value"]["content"]))
            elif operation["key"] == "deletedFile":
                path.unlink()
        url = f"http://{self.headers['Host']}/{name}/commit/{_commit(self.folders[name])}"
        self._json(200, {"success": True, "commitUrl": url, "commitOid": _commit(self.folders[name])}, True)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def _answer(self, *, body: bool, posted: bytes = b"") -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).strip("/")
        for name, folder in self.folders.items():
            api = name if name.startswith("datasets/") else f"models/{name}"
            if path == f"api/{api}" or path.startswith(f"api/{api}/"):
                return self._api(name, folder, path.removeprefix(f"api/{api}").strip("/"), posted, url.query, body)
            if path.startswith(f"{name}/resolve/"):
                if name in self.gated_ids:
                    return self._json(403, {"error": "Accept the terms"}, body, {"X-Error-Code": "GatedRepo"})
                _, _, inside = path.removeprefix(f"{name}/resolve/").partition("/")
                return self._file(folder, inside, body)
        return self._json(404, {"error": "Repository not found"}, body, {"X-Error-Code": "RepoNotFound"})

    def _api(self, name: str, folder: Path, rest: str, posted: bytes, query: str, body: bool) -> None:
        kind, _, inside = rest.partition("/")
        if kind in ("", "revision"):
            return self._json(200, _repo_info(name, folder) | {"private": name in self.private}, body)
        if kind == "tree":
            _, _, below = inside.partition("/")
            if not (folder / below).is_dir():
                return self._json(404, {"error": "no such entry"}, body, {"X-Error-Code": "EntryNotFound"})
            recursive = parse_qs(query).get("recursive", ["false"])[0].lower() in ("1", "true")
            paths = (folder / below).rglob("*") if recursive else (folder / below).iterdir()
            return self._json(200, [_tree_entry(folder, path) for path in sorted(paths)], body)
        if kind == "paths-info":
            paths = [folder / path for path in _requested_paths(posted)]
            return self._json(200, [_tree_entry(folder, path) for path in paths if path.exists()], body)
        return self._json(404, {"error": f"not emulated: {kind}"}, body, {"X-Error-Code": "EntryNotFound"})

    def _file(self, folder: Path, inside: str, body: bool) -> None:
        path = folder / inside
        if not path.is_file() or ".." in inside.split("/"):
            return self._json(404, {"error": "Entry not found"}, body, {"X-Error-Code": "EntryNotFound"})
        data = path.read_bytes()
        start, stop = 0, len(data)
        if asked := self.headers.get("Range", "").removeprefix("bytes="):
            first, _, last = asked.partition("-")
            start, stop = int(first), min(int(last) + 1, stop) if last else stop
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{_oid(data)}"')
        self.send_header("X-Repo-Commit", _commit(folder))
        self.end_headers()
        if body:
            self.wfile.write(data[start:stop])
        return None

    def _json(self, status: int, content: Any, body: bool, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _requested_paths(posted: bytes) -> list[str]:
    """Return the paths of a paths-info request, which is JSON or a form."""
    text = posted.decode()
    paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
    return [paths] if isinstance(paths, str) else list(paths)


def _repo_info(name: str, folder: Path) -> dict[str, Any]:
    repo = name.removeprefix("datasets/")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        "_id": "0" * 24,
        "id": repo,
        "modelId": repo,
        "author": repo.partition("/")[0],
        "sha": _commit(folder),
        "lastModified": "2024-01-01T00:00:00.000Z",
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": file} for file in files],
    }


def _tree_entry(folder: Path, path: Path) -> dict[str, Any]:
    inside = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": inside, "size": 0, "oid": "0" * 40}
    data = path.read_bytes()
    return {"type": "file", "path": inside, "size": len(data), "oid": _oid(data)}


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _commit(folder: Path) -> str:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return hashlib.sha1("\n".join(names).encode()).hexdigest()
