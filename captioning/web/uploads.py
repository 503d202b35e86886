"""The images and settings of a request."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from captioning.decoding import METHODS, SearchMethod, change_search
from captioning.errors import ConfigError
from captioning.images.image_ref import ImageRef
from captioning.messages import format_count, suggest
from captioning.web.limits import MAX_SEARCH_ROWS, MAX_WORDS, ServerLimits

RAW_TYPES = ("application/octet-stream", "application/x-www-form-urlencoded", "")
"""Types of a body that is one image, besides ``image/...``; the second is the default of curl."""
_MAX_NAME = 200  # characters of a file name
_SETTINGS_BYTES = 10_000
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclass
class Lease:
    """Bytes of a request in the memory of the server."""

    size: int = 0


class Budget:
    """Counts requests and the bytes of their bodies, and refuses more than the limits allow."""

    def __init__(self, limits: ServerLimits) -> None:
        self.limits = limits
        self.requests = 0
        self.size = 0

    @contextmanager
    def admit(self) -> Iterator[Lease]:
        """Count a request until it is answered.

        Raises:
            HTTPException: There are too many (503).
        """
        if self.requests >= self.limits.max_waiting:
            raise _busy(f"{format_count(self.requests, 'request')} are waiting")
        self.requests += 1
        lease = Lease()
        try:
            yield lease
        finally:
            self.requests -= 1
            self.size -= lease.size

    async def read(self, request: Request, lease: Lease) -> AsyncGenerator[bytes, None]:
        """Yield the body of a request.

        Raises:
            HTTPException: It is too large (413), or the server has no memory for it (503).
        """
        limit = self.limits.body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise _too_large(int(declared), limit)
        async for chunk in request.stream():
            lease.size += len(chunk)
            self.size += len(chunk)
            if lease.size > limit:
                raise _too_large(lease.size, limit)
            if self.size > self.limits.total_bytes:
                raise _busy("the uploads of other requests fill its memory")
            yield chunk


def _too_large(found: int, limit: int) -> HTTPException:
    return HTTPException(
        413,
        f"the body has {found:,} bytes or more; the limit is {limit:,}. Send fewer or smaller "
        "images.",
    )


def _busy(reason: str) -> HTTPException:
    return HTTPException(503, f"the server is busy: {reason}. Try again.", {"Retry-After": "1"})


async def read_uploads(
    request: Request, budget: Budget, lease: Lease
) -> tuple[list[ImageRef], list[tuple[str, str]]]:
    """Return the images of a request, and the settings in its query and form.

    Raises:
        HTTPException: The body cannot be used (400, 413, 415, 503).
    """
    settings = [(name, value) for name, value in request.query_params.multi_items()]
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = budget.read(request, lease)
    if kind == "multipart/form-data":
        images, more = await _read_form(request, body, budget.limits)
        settings += more
    elif kind in RAW_TYPES or kind.startswith("image/"):
        content = b"".join([chunk async for chunk in body])
        images = [ImageRef("image", content)] if content else []
    else:
        raise HTTPException(
            415,
            f"cannot read a body of type {kind!r:.100}. Send an image (image/jpeg, "
            "application/octet-stream) or a form (multipart/form-data) with one or more files.",
        )
    if not images:
        raise HTTPException(400, "the request has no image. Send it as the body, or as a file.")
    return images, settings


async def _read_form(
    request: Request, body: AsyncGenerator[bytes, None], limits: ServerLimits
) -> tuple[list[ImageRef], list[tuple[str, str]]]:
    parser = MultiPartParser(
        request.headers,
        body,
        max_files=limits.max_images,
        max_fields=len(_setting_names()) * 10,
        max_part_size=_SETTINGS_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"cannot read the form: {error.message}") from error
    images, settings = [], []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            images.append(ImageRef(_clean_name(value.filename), await value.read()))
            await value.close()
        else:
            settings.append((name, value))
    return images, settings


def _clean_name(name: str | None) -> str:
    """Return a file name without folders, cut to a readable length."""
    text = (name or "").replace("\\", "/").rpartition("/")[2][:_MAX_NAME]
    return text.encode("utf-8", "replace").decode() or "image"


def _setting_names() -> set[str]:
    return {"search", "seed"} | {f.name for method in METHODS.values() for f in fields(method)}


@dataclass(frozen=True)
class SearchRequest:
    """A search and the seed of sampling."""

    search: SearchMethod
    seed: int = 0


def parse_search(settings: list[tuple[str, str]], own: SearchMethod) -> SearchRequest:
    """Return the search that the settings of a request describe.

    Args:
        settings: Names and values: ``search``, ``seed`` and the settings of the search method. A
            setting that is a list is repeated.
        own: The search of the model, which the settings change.

    Raises:
        ConfigError: A setting is unknown, repeated, malformed or out of range.
    """
    values: dict[str, list[str]] = {}
    for name, value in settings:
        values.setdefault(name, []).append(value)
    method, seed = type(own), 0
    if "search" in values:
        name = _single("search", values.pop("search"))
        if name not in METHODS:
            raise ConfigError(
                f"search is {name!r:.80}; it must be one of {', '.join(METHODS)}."
                f"{suggest(name[:80], METHODS)}"
            )
        method = METHODS[name]
    if "seed" in values:
        seed = _parse("seed", int, values.pop("seed"))
        if not 0 <= seed < 2**63:
            raise ConfigError(f"seed is {seed}; it must be between 0 and 2**63 - 1.")
    kinds: dict[str, Any] = {field.name: field.type for field in fields(method)}
    for name in values:
        if name not in kinds:
            raise ConfigError(_explain_unknown(name, method))
    given = {name: _parse(name, kinds[name], texts) for name, texts in values.items()}
    search = change_search(own, method, given)
    _check_cost(search)
    return SearchRequest(search, seed)


def _explain_unknown(name: str, method: type[SearchMethod]) -> str:
    known = ["search", "seed", *(field.name for field in fields(method))]
    method_name = next(each for each, kind in METHODS.items() if kind is method)
    return (
        f"{name!r:.80} is not a setting of {method_name} search.{suggest(name[:80], known)} Choose "
        f"from {', '.join(known)}."
    )


def _single(name: str, texts: list[str]) -> str:
    if len(texts) > 1:
        raise ConfigError(f"{name} is given {len(texts)} times. Give it once.")
    return texts[0]


def _parse(name: str, kind: Any, texts: list[str]) -> Any:
    """Return the value of a setting from its texts."""
    if kind not in _KINDS:
        return tuple(texts)
    text = _single(name, texts)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{name} is {text!r:.80}; it must be {_KINDS[kind]}.") from None


def _check_cost(search: SearchMethod) -> None:
    """Refuse a search that would take the time of all other requests.

    Raises:
        ConfigError: It has too many hypotheses, or too many words.
    """
    rows = max(getattr(search, "width", 1), getattr(search, "n", 1))
    rows *= getattr(search, "groups", 1) * (1 + len(search.required_words))
    if rows > MAX_SEARCH_ROWS:
        raise ConfigError(
            f"the search has {rows:,} hypotheses per image; this server allows {MAX_SEARCH_ROWS}. "
            "Lower width, n or groups."
        )
    if search.max_length > MAX_WORDS:
        raise ConfigError(
            f"max_length is {search.max_length:,}; this server allows {MAX_WORDS} words."
        )
