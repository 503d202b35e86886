"""Download and upload of model directories (Hugging Face hub)."""

from pathlib import Path

from captioning.errors import CheckpointError

_REASONS = {
    "GatedRepoError": "its authors restrict access. Ask for access on its page, then run `hf auth "
    "login`",
    "RepositoryNotFoundError": "the hub has no such model, or it is private. Check the name. For "
    "a private model, run `hf auth login` first",
    "RevisionNotFoundError": "the hub has the model, but not this revision. Use a branch, tag or "
    "commit of the model after the @",
    "LocalEntryNotFoundError": "the hub cannot be reached, and the model is not in the cache. "
    "Check the name and the network, then run the same command; finished files are kept",
}
"""Reason and advice by the class of an error of huggingface_hub."""


def model_directory(name: str | Path) -> Path:
    """Return the directory of a model; a model on the hub is downloaded first.

    Args:
        name: Directory, or id on the hub such as ``owner/name`` or ``owner/name@revision``.

    Raises:
        CheckpointError: The model cannot be downloaded.
    """
    directory = Path(name)
    return _download(str(name)) if not directory.is_dir() and _is_hub_id(str(name)) else directory


def upload_directory(directory: Path, repo_id: str, *, private: bool) -> str:
    """Upload a model directory to the hub and return its URL.

    Raises:
        CheckpointError: The hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        # An earlier version may have an n-gram reranker that this one lacks.
        address = api.upload_folder(
            repo_id=repo_id, folder_path=directory, delete_patterns=["*.safetensors"]
        )
    except Exception as error:  # as in _download
        raise CheckpointError(
            f"cannot upload the model to {repo_id}: {_describe(error)}. Check the name, and run "
            "`hf auth login` with a token that may write."
        ) from error
    return str(address)


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~"))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repo_id, _, revision = name.partition("@")
    patterns = ["*.json", "*.safetensors", "*.md"]
    try:
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=patterns))
    except Exception as error:  # the hub's library raises many kinds
        known = (_REASONS.get(kind.__name__) for kind in type(error).__mro__)
        other = f"{_describe(error)}. Run the same command again; finished files are kept"
        reason = next(filter(None, known), other)
        raise CheckpointError(
            f"there is no model directory {name}, and the download from the hub failed: {reason}."
        ) from error


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}"
