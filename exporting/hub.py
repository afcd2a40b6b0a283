"""Upload an export to the model hub."""

import shlex
from pathlib import Path

from runtime.errors import InputError, first_line


def check_repo_id(repo_id: str) -> None:
    """Raise InputError if the hub would not take a name."""
    from huggingface_hub.errors import HFValidationError  # slow to import, and only this needs it
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"--push {repo_id}: {first_line(error)}") from None


def push(folder: Path, repo_id: str) -> str:
    """Upload a folder to a repository on the hub, and return the repository's address.

    The repository is made if it is missing, and only its owner sees it then. The token is the one
    of `hf auth login`, or of HF_TOKEN.

    Raises:
        InputError: the hub cannot be reached, or refuses. The folder stays.
    """
    import huggingface_hub  # slow to import, and only this needs it

    try:
        api = huggingface_hub.HfApi()
        repository = api.create_repo(repo_id, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            commit_message="Add a model that Multitask BERT has exported",
        )
    except Exception as error:  # hub, http and file errors share no base class
        again = shlex.join(["hf", "upload", repo_id, str(folder)])
        raise InputError(
            f"--push {repo_id}: not uploaded ({type(error).__name__}: {first_line(error)}); "
            f"{folder} is complete, so later: {again}"
        ) from None
    return str(repository)
