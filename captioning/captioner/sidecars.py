"""Small text files beside the pictures."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from captioning.captioner.output import Writer, photo_among
from captioning.captioner.results import CaptionedPicture
from captioning.errors import OutputError


def sidecar_paths(sources: Iterable[str], folder: Path | None, ending: str) -> dict[str, Path]:
    """Return for each picture the path of its text file; no two are the same.

    ``a.jpg`` gives ``a.txt``. Where ``a.jpg`` and ``a.png`` would share one, they give
    ``a.jpg.txt`` and ``a.png.txt``; where two folders' pictures of one name go to one ``folder``,
    the second's is numbered. The names depend on the list, not on which pictures can be read.

    Args:
        sources: The pictures' paths, each once.
        folder: Where the text files go; None for beside each picture.
        ending: ``.txt``, say.
    """
    sources = list(sources)
    pictures = [Path(source) for source in sources]
    short = [_in(folder, picture) / f"{picture.stem}{ending}" for picture in pictures]
    sharing = Counter(_key(path) for path in short)
    taken = {key for key, pictures_of_it in sharing.items() if pictures_of_it == 1}
    number: Counter[str] = Counter()
    paths: dict[str, Path] = {}
    for source, picture, path in zip(sources, pictures, short, strict=True):
        own = path
        if sharing[_key(path)] > 1:
            long = path.with_name(f"{picture.name}{ending}")
            own = long
            while _key(own) in taken:
                number[_key(long)] += 1
                own = long.with_name(f"{picture.name}-{number[_key(long)] + 1}{ending}")
            taken.add(_key(own))
        paths[source] = own  # as it was named: ./a.jpg is not a.jpg to those who look it up
    return paths


def _in(folder: Path | None, picture: Path) -> Path:
    return picture.parent if folder is None else folder


def _key(path: Path) -> str:
    """Some file systems take ``A.txt`` and ``a.txt`` for the same."""
    return str(path).casefold()


class SidecarWriter(Writer):
    """A small text file beside each picture, or in the folder that ``-o`` names.

    Args:
        output: The folder; None for that of each picture.
        ending: ``.txt``, say.
        sources: All pictures.
        existing: ``refuse``, ``replace`` or ``keep``: what becomes of text files that are there.
            With ``keep``, the caller writes the other pictures' only.

    Raises:
        OutputError: The folder cannot be made, or text files exist that are not to be replaced.
    """

    def __init__(
        self, output: Path | None, ending: str, sources: Sequence[str], existing: str
    ) -> None:
        self.folder = output
        self.ending = ending
        self.paths = sidecar_paths(sources, output, ending)
        present = [path for path in self.paths.values() if path.exists()]
        if present and existing == "refuse":
            raise OutputError(
                f"{len(present)} of the text files exist, the first is {present[0]}. Give "
                "--overwrite to replace them, or --resume to caption the other photos only."
            )
        if photo := photo_among(present, sources):
            raise OutputError(
                f"{photo} is one of the photos, and the caption of a photo would be written over "
                "it. Name a folder for the captions with -o, or leave that photo out."
            )
        if output is not None:
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{output} cannot be a folder for the captions: {error}. Give another -o."
                ) from error

    def _write(self, result: CaptionedPicture) -> None:
        if not result.ok:
            return
        path = self.paths.get(result.source)
        if path is None:
            path = sidecar_paths([result.source], self.folder, self.ending)[result.source]
        # A name of its own length: the picture's may be as long as names can be.
        temporary = path.with_name(f".captions-{os.getpid()}")
        try:
            text = "".join(f"{caption.text}\n" for caption in result.captions)
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise OutputError(
                f"{path} cannot be written: {error}. Name a folder of your own with -o."
            ) from error
