"""Download and upload of model directories (Hugging Face hub)."""

from pathlib import Path

from captioning.errors import CheckpointError


def model_directory(name: str | Path) -> Path:
    """Return the directory of a model; a hub id such as ``owner/name`` is downloaded first.

    Raises:
        CheckpointError: The model cannot be downloaded.
    """
    directory = Path(name)
    return _download(str(name)) if not directory.is_dir() and _is_hub_id(str(name)) else directory


def upload_directory(directory: Path, repo_id: str, *, private: bool) -> str:
    """Upload a model directory to the hub and return its URL."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    # An earlier version may have an n-gram reranker that this one lacks.
    address = api.upload_folder(
        repo_id=repo_id, folder_path=directory, delete_patterns=["*.safetensors"]
    )
    return str(address)


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~"))


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except Exception as error:  # the hub's library raises many kinds
        raise CheckpointError(
            f"there is no model directory {repo_id}, and the download from the hub failed: "
            f"{type(error).__name__}: {str(error).splitlines()[0][:200]}. Check the name, or "
            "connect to the network once to cache the model."
        ) from error
