"""Converted graphs on disk: a conversion takes a second, reading takes 20 milliseconds.

A file holds the SHA-256 of the rest, the length of the XML, the XML, and the weights. A damaged
file is converted again. A folder that cannot be written makes every start slower and changes
nothing else.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import openvino as ov

from captioning.files import replace_atomic
from captioning.graphs.core import CORE

_MAX_FILES = 8  # of about 20 MB; the least recently used are removed
_DIGEST_BYTES, _LENGTH_BYTES = 32, 8


def cache_directory() -> Path:
    """Return the folder of the cache: ``$CAPTIONING_CACHE``, or one in the user's cache folder."""
    own = os.environ.get("CAPTIONING_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own) if own else Path(base).expanduser() / "captioning"


def cached_graph(key: str, convert: Callable[[], ov.Model]) -> ov.Model:
    """Return the graph with a key, from the cache if possible.

    Args:
        key: Identifies the graph: a hash of everything that it depends on.
        convert: Returns the graph.
    """
    with suppress(OSError, RuntimeError):  # unreadable, or of an incompatible version
        path = _path(key)
        if (graph := _parse(path.read_bytes())) is not None:
            with suppress(OSError):  # the folder may be read-only
                os.utime(path)
            return graph
    file = _format(convert())
    with suppress(OSError, RuntimeError):
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomic(path, file, sync=False)
        _remove_oldest(path.parent)
    graph = _parse(file)  # a converted graph that was never written rounds differently
    assert graph is not None
    return graph


def _path(key: str) -> Path:
    """Return the path of a graph.

    Raises:
        RuntimeError: The user has no home folder.
    """
    return cache_directory() / f"{key}.graph"


def _format(graph: ov.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder, "graph.xml"), Path(folder, "graph.bin")
        ov.serialize(graph, xml, weights)
        text = _mark_large_layers(xml.read_bytes())
        content = len(text).to_bytes(_LENGTH_BYTES, "little") + text + weights.read_bytes()
    return hashlib.sha256(content).digest() + content


def _mark_large_layers(xml: bytes) -> bytes:
    """Mark the layers with the largest feature maps, which stay in float32 in a bfloat16 graph.

    In bfloat16 they cause a third of the error of EfficientNet-Lite2, and are not faster. The mark
    is set in the XML, because OpenVINO only sees it when it reads a graph from a file.
    """
    root = ElementTree.fromstring(xml)
    shapes = {
        layer: [int(str(size.text)) for size in layer.findall("output/port/dim")]
        for layer in root.iter("layer")
    }
    image = next(shapes[layer] for layer in shapes if layer.get("type") == "Parameter")
    for layer, shape in shapes.items():
        if len(shape) == 4 and shape[-1] >= image[-1] // 4:
            info = layer.find("rt_info")
            info = ElementTree.SubElement(layer, "rt_info") if info is None else info
            ElementTree.SubElement(info, "attribute", name="precise", version="0")
    return ElementTree.tostring(root)


def _parse(file: bytes) -> ov.Model | None:
    """Return the graph in a file, or None if the file is damaged."""
    digest, content = file[:_DIGEST_BYTES], file[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    return CORE.read_model(content[_LENGTH_BYTES:end], content[end:])


def _remove_oldest(directory: Path) -> None:
    files = sorted(directory.glob("*.graph"), key=lambda path: path.stat().st_mtime)
    for path in files[:-_MAX_FILES]:
        path.unlink()
