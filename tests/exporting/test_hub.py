"""--push against a small stand-in for the hub that speaks its protocol over HTTP."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

import export
from exporting.hub import push
from options.export_options import get_args_parser, parse_args


class HubHandler(BaseHTTPRequestHandler):
    """Answers what `create_repo` and `upload_folder` ask, and keeps what they send."""

    def log_message(self, *args):
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, content: object, status: int = 200) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_POST(self):
        hub, body = self.server, self.body()
        hub.requests.append((self.path, self.headers.get("Authorization")))
        if hub.refusal is not None:
            self.answer({"error": hub.refusal}, 403)
        elif self.path == "/api/repos/create":
            hub.created = json.loads(body)
            self.answer({"url": f"{hub.url}/me/model", "name": "me/model"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/models/me/model/preupload/main":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif self.path == "/me/model.git/info/lfs/objects/batch":
            objects = [
                item | {"actions": {"upload": {"href": f"{hub.url}/lfs/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif self.path == "/api/models/me/model/commit/main":
            hub.commit = [json.loads(line) for line in body.splitlines()]
            self.answer({"commitUrl": f"{hub.url}/me/model/commit/1", "commitOid": "1"})
        else:
            self.answer({"error": "unexpected"}, 404)

    def do_PUT(self):
        self.server.stored[self.path.removeprefix("/lfs/")] = self.body()
        self.answer({})


@pytest.fixture
def hub(monkeypatch):
    """A running stand-in, which huggingface_hub takes for the hub.

    Attributes: `requests` (path, authorization), `created`, `commit` and `stored` are what it got;
    with a `refusal` it answers everything with that.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.requests, server.stored, server.refusal = [], {}, None
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    yield server
    close_session()
    server.shutdown()
    server.server_close()


def export_and_push(run, target, *flags, name="transformers", repo_id="me/model"):
    words = ["--run", run, "--to", target, "--format", name, "--push", repo_id, *flags]
    export.main(parse_args(get_args_parser(), [str(word) for word in words]))


def test_every_file_arrives(finished_run, tmp_path, hub, capsys):
    target = tmp_path / "exported"
    export_and_push(finished_run, target, name="sentence-transformers", repo_id="model")
    assert capsys.readouterr().out.endswith(f"uploaded to {hub.url}/me/model\n")
    assert (hub.created["name"], hub.created["visibility"]) == ("model", "private")
    files = {}
    for line in hub.commit:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.stored[value["oid"]]
            assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
    written = {str(p.relative_to(target)): p for p in target.rglob("*") if p.is_file()}
    assert files == {name: path.read_bytes() for name, path in written.items()}
    assert "1_Pooling/config.json" in files and "model.safetensors" in files
    assert b"SentenceTransformer('model')" in files["README.md"]
    assert {secret for _, secret in hub.requests} == {"Bearer hf_secret"}


def test_a_refusal_is_one_line_and_the_folder_stays(finished_run, tmp_path, hub, one_line):
    hub.refusal = "You don't have the rights to create a model under the namespace me"
    target = tmp_path / "my model"
    message = one_line(export_and_push, finished_run, target)
    assert message.startswith("--push me/model: not uploaded (HfHubHTTPError: 403")
    assert message.endswith(f"is complete, so later: hf upload me/model '{target}'")
    assert "hf_secret" not in message
    assert (target / "model.safetensors").is_file()


def test_offline_is_one_line(tmp_path, one_line):
    message = one_line(push, tmp_path, "me/model")
    assert "not uploaded (OfflineModeIsEnabled: Cannot reach" in message


def test_no_connection_is_one_line(tmp_path, hub, one_line):
    hub.shutdown()
    hub.server_close()
    assert "--push me/model: not uploaded (ConnectError: " in one_line(push, tmp_path, "me/model")


@pytest.mark.parametrize("repo_id", ["a/b/c", "x-", "a b", "me/..", "x" * 97])
def test_a_wrong_name_is_noticed_first(tmp_path, repo_id, one_line):
    message = one_line(
        lambda: export_and_push(tmp_path / "no run", tmp_path / "to", repo_id=repo_id)
    )
    assert message.startswith(f"--push {repo_id}: ")
    assert not (tmp_path / "to").exists()


def test_a_repository_holds_one_head(finished_run, tmp_path, one_line):
    message = one_line(lambda: export_and_push(finished_run, tmp_path / "to", name="cross-encoder"))
    assert "the run has the heads sst, para, sts; name one with --task" in message
    assert not (tmp_path / "to").exists()
