"""Resuming an interrupted run: which settings must agree, and how its journal is opened."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from captioning.bulk.content import digest_output
from captioning.bulk.journal import Journal, journal_path
from captioning.bulk.output_checks import REPLACE_ADVICE, check_output_file, is_stream
from captioning.bulk.partition import Partition
from captioning.checkpoint import Checkpoint
from captioning.decoding import SearchMethod, search_to_json
from captioning.errors import ConfigError
from captioning.files import resolve_link
from captioning.images.loader import ImageLoader
from captioning.inference.backend_config import ResolvedBackend
from captioning.inference.captioner import Captioner


def run_settings(
    captioner: Captioner, loader: ImageLoader, search: SearchMethod, partition: Partition | None
) -> dict[str, Any]:
    """Return everything that decides the captions of a run, as values that JSON can store."""
    settings: dict[str, Any] = {
        "model": fingerprint([captioner.checkpoint, *captioner.others], captioner.backend),
        "search": search_to_json(search),
        "seed": captioner.seed,
        "precision": captioner.backend.rounding,  # below float32, captions depend on the backend
        "allow_truncated": loader.allow_truncated,
        "partition": None if partition is None else str(partition),
    }
    if captioner.consensus is not None:
        settings["consensus"] = captioner.consensus.fingerprint
    return settings


def fingerprint(checkpoints: Iterable[Checkpoint], backend: ResolvedBackend) -> str:
    """Return a hash of all that decides the captions of models, except search and precision."""
    is_int8 = backend.precision == "int8"  # otherwise the ranges have no effect
    digest = hashlib.sha256()
    for checkpoint in checkpoints:
        digest.update(repr(checkpoint.model.encoder.preprocessing).encode())
        digest.update("\n".join(checkpoint.vocabulary.words).encode("utf-8", "surrogatepass"))
        ranges = checkpoint.ranges if is_int8 else None
        tensors = {**checkpoint.model.state_dict(), **(ranges or {})}
        for name, weight in tensors.items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
        if checkpoint.reranker is not None:
            digest.update(checkpoint.reranker.digest())
    return digest.hexdigest()[:16]


def open_journal(
    output: Path | None, settings: dict[str, Any], *, overwrite: bool = False
) -> Journal | None:
    """Open or create the journal of an output.

    Args:
        output: Path of the output; None for standard output.
        settings: See :func:`run_settings`.
        overwrite: Start again, even if there is an output or a journal.

    Returns:
        The journal; None for standard output, pipes and devices, which cannot resume.

    Raises:
        ConfigError: The output exists without a journal, has been changed since the last run, or
            belongs to a run with other settings.
        OutputError: The journal cannot be opened.
    """
    if output is None or is_stream(output):
        return None
    check_output_file(output, overwrite=overwrite)
    output = resolve_link(output)
    path = journal_path(output)
    journal = Journal(path, settings, restart=overwrite)
    digests = journal.metadata().get("outputs")
    if digests and output.exists() and digest_output(output) not in digests:
        journal.close()
        reason = f"'{output}' has been changed since the last run."
        raise ConfigError(f"{reason} Save it under another name, or: {REPLACE_ADVICE}")
    return journal
