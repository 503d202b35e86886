"""The page and its requests: facts about the model, and the folder."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from captioning.decoding import METHODS, search_to_json
from captioning.errors import CaptioningError, ConfigError, ImageError
from captioning.json_data import parse_json
from captioning.web.folder import (
    FileExistsAlreadyError,
    FolderSession,
    SaveFormat,
    SaveRequest,
    State,
)
from captioning.web.json_replies import JsonReply
from captioning.web.openapi import describe_settings
from captioning.web.service import CaptionService

_STATIC = Path(__file__).parent / "static"
_MAX_JSON = 20_000  # bytes
_PAGE = 60  # images per request of the folder's list

T = TypeVar("T")


class Page:
    """The page: its files, facts about the model, and the folder.

    Args:
        service: The model.
        session: The folder; None if there is none.
    """

    def __init__(self, service: CaptionService, session: FolderSession | None = None) -> None:
        self.service = service
        self.session = session

    @property
    def routes(self) -> list[BaseRoute]:
        """The routes of the page."""
        folder = _Folder(self.service, self.session)
        return [
            Route("/", self._show),
            Route("/api/model", self._describe),
            Route("/api/folder", folder.status),
            Route("/api/folder/rows", folder.rows),
            Route("/api/folder/image", folder.image),
            Route("/api/folder/thumbnail", folder.thumbnail),
            Route("/api/folder/start", folder.start, methods=["POST"]),
            Route("/api/folder/stop", folder.stop, methods=["POST"]),
            Route("/api/folder/correct", folder.correct, methods=["POST"]),
            Route("/api/folder/save", folder.save, methods=["POST"]),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ]

    async def close(self) -> None:
        """Stop captioning the folder."""
        if self.session is not None:
            await self.session.close()

    async def _show(self, request: Request) -> Response:
        return FileResponse(_STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def _describe(self, request: Request) -> Response:
        return JsonReply(describe_model(self.service, self.session))


def describe_model(service: CaptionService, session: FolderSession | None) -> dict[str, Any]:
    """Return facts for the page: the parts of the model, and the settings of the search."""
    checkpoint = service.captioner.checkpoint
    decoder = checkpoint.model.decoder
    return {
        "name": checkpoint.info.name,
        "attention": decoder.config.uses_grid,
        "concepts": decoder.concepts is not None,
        "fit": checkpoint.model.encoder.preprocessing.fit,
        "search": search_to_json(service.search),
        "methods": {name: describe_settings(method) for name, method in METHODS.items()},
        "max_bytes": service.limits.body_bytes,
        "folder": session is not None,
        "formats": list(get_args(SaveFormat)),
    }


Endpoint = Callable[["_Folder", Request, FolderSession], Awaitable[Response]]


def _with_session(endpoint: Endpoint) -> Callable[["_Folder", Request], Awaitable[Response]]:
    """Return an endpoint that replies with an error if it fails or if there is no folder."""

    @wraps(endpoint)
    async def checked(self: "_Folder", request: Request) -> Response:
        if self.session is None:
            text = "there is no folder. Start the server with one: captioning web FOLDER"
            return JsonReply({"error": text}, 404)
        try:
            return await endpoint(self, request, self.session)
        except CaptioningError as error:
            status = 409 if isinstance(error, FileExistsAlreadyError) else 422
            return JsonReply({"error": str(error)}, status)

    return checked


class _Folder:
    """The endpoints of the folder."""

    def __init__(self, service: CaptionService, session: FolderSession | None) -> None:
        self.service = service
        self.session = session

    @_with_session
    async def status(self, request: Request, session: FolderSession) -> Response:
        """Return the progress."""
        results = session.results.values()
        return JsonReply(
            {
                "folder": str(session.output),
                "running": session.running,
                "error": session.error,
                "images": len(session.images),
                "captioned": sum(result.ok for result in results),
                "failed": sum(not result.ok for result in results),
                "corrected": sum(bool(session.corrections.get(n)) for n in session.file_names),
            }
        )

    @_with_session
    async def rows(self, request: Request, session: FolderSession) -> Response:
        """Return some of the images that match a filter."""
        query = request.query_params
        state, offset = query.get("state", "all"), query.get("offset", "0")
        if state not in get_args(State) or not (offset.isascii() and offset.isdecimal()):
            raise ConfigError("state or offset is wrong.")
        found = session.find(query.get("text", ""), state)  # type: ignore[arg-type]
        first = int(offset[:9])
        rows = [{**asdict(row), "state": row.state} for row in found[first : first + _PAGE]]
        return JsonReply({"total": len(found), "rows": rows})

    @_with_session
    async def image(self, request: Request, session: FolderSession) -> Response:
        """Return the file of an image."""
        image = session.images[_find_image(request.query_params.get("id", ""), session)]
        if image.error:  # such as a link out of the folder
            raise ImageError(image.error)
        if not Path(image.name).is_file():
            raise ImageError(f"cannot find '{image.name}'. Move the image back.")
        return FileResponse(image.name, headers={"Cache-Control": "no-cache"})

    @_with_session
    async def thumbnail(self, request: Request, session: FolderSession) -> Response:
        """Return a small JPEG of an image."""
        image = session.images[_find_image(request.query_params.get("id", ""), session)]
        decoded = await self.service.read(image)
        if decoded.error:
            return JsonReply({"error": decoded.error}, 422)
        headers = {"Cache-Control": "private, max-age=600"}
        return Response(decoded.thumbnail, media_type="image/jpeg", headers=headers)

    @_with_session
    async def start(self, request: Request, session: FolderSession) -> Response:
        """Caption the images that have no caption."""
        session.start()
        return JsonReply({})

    @_with_session
    async def stop(self, request: Request, session: FolderSession) -> Response:
        """Stop captioning."""
        await session.stop()
        return JsonReply({})

    @_with_session
    async def correct(self, request: Request, session: FolderSession) -> Response:
        """Store a corrected caption."""
        given = await _read_json(request, _Correction)
        row = session.correct(_find_image(str(given.id), session), given.text)
        return JsonReply({**asdict(row), "state": row.state})

    @_with_session
    async def save(self, request: Request, session: FolderSession) -> Response:
        """Write the captions to files."""
        save = await _read_json(request, SaveRequest)
        return JsonReply(asdict(await asyncio.to_thread(session.save, save)))


@dataclass(frozen=True)
class _Correction:
    """A corrected caption."""

    id: int
    text: str


def _find_image(number: str, session: FolderSession) -> int:
    """Return the number of an image.

    Raises:
        HTTPException: The folder has no such image.
    """
    if number.isascii() and number.isdecimal() and int(number[:9]) < len(session.images):
        return int(number[:9])
    raise HTTPException(404, f"there is no image {number!r:.20} in the folder.")


async def _read_json(request: Request, kind: type[T]) -> T:
    """Return the JSON body of a request.

    Raises:
        HTTPException: It is too large.
        ConfigError: It is not a ``kind``.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_JSON:
            raise HTTPException(413, f"the body has more than {_MAX_JSON:,} bytes.")
    return parse_json(body, kind, source="request", advice="Correct it.")
