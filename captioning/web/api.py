"""The HTTP interface: ``POST /caption``, ``POST /explain``, and facts about the server."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from captioning.errors import CaptioningError, ConfigError, ImageError, SearchError
from captioning.web.guard import Guard
from captioning.web.json_replies import JsonReply, explanation_to_json, result_to_json
from captioning.web.openapi import describe_interface
from captioning.web.pages import Page
from captioning.web.service import CaptionService
from captioning.web.uploads import parse_search, read_uploads

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    service: CaptionService,
    *,
    token: str = "",
    any_host: bool = False,
    page: Page | None = None,
) -> Starlette:
    """Return the application.

    Args:
        service: Captions the images; closed when the application ends.
        token: The token that requests need; empty for none.
        any_host: Accept requests for every host name. Only safe with a token.
        page: The page; None for the HTTP interface alone.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        if page is not None:
            await page.close()
        service.close()

    handlers = _Handlers(service)
    own = [
        Route("/caption", handlers.limit(handlers.caption), methods=["POST"]),
        Route("/explain", handlers.limit(handlers.explain), methods=["POST"]),
        Route("/health", handlers.health),
        Route("/metrics", handlers.metrics),
        Route("/openapi.json", handlers.openapi),
    ]
    return Starlette(
        routes=[*own, *(() if page is None else page.routes)],
        middleware=[Middleware(Guard, token=token, any_host=any_host)],
        exception_handlers={HTTPException: _reply_error, Exception: _reply_failure},
        lifespan=lifespan,
    )


async def _reply_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JsonReply({"error": error.detail}, error.status_code, error.headers)


async def _reply_failure(request: Request, error: Exception) -> Response:
    return JsonReply({"error": "the server failed; its log has the reason."}, 500)


class _Handlers:
    """The endpoints of a service."""

    def __init__(self, service: CaptionService) -> None:
        self.service = service

    def limit(self, handler: Endpoint) -> Endpoint:
        """Return an endpoint with a time limit, a request limit and metrics."""

        async def limited(request: Request) -> Response:
            started, path = time.monotonic(), request.url.path
            reply = await self._answer(handler, request)
            self.service.metrics.seconds.labels(path).observe(time.monotonic() - started)
            self.service.metrics.requests.labels(path, str(reply.status_code)).inc()
            return reply

        return limited

    async def _answer(self, handler: Endpoint, request: Request) -> Response:
        seconds = self.service.limits.max_seconds
        try:
            async with asyncio.timeout(seconds):
                return await handler(request)
        except TimeoutError:
            text = f"no result within {seconds:g} seconds. Send fewer images, or try again."
            return JsonReply({"error": text}, 504, {"Retry-After": "1"})
        except (ConfigError, SearchError, ImageError) as error:
            return JsonReply({"error": str(error)}, 422)
        except HTTPException as error:
            return await _reply_error(request, error)
        except ClientDisconnect:
            return JsonReply({"error": "the client closed the connection."}, 400)
        except CaptioningError as error:
            logging.getLogger(__name__).exception("cannot answer a request")
            return JsonReply({"error": str(error)}, 500)

    async def caption(self, request: Request) -> Response:
        """Caption the images of a request."""
        with self.service.budget.admit() as lease:
            images, settings = await read_uploads(request, self.service.budget, lease)
            search = parse_search(settings, self.service.search)
            self.service.captioner.check_search(search.search)
            results = await self.service.caption(images, search)
        status = 200 if any(result.ok for result in results) else 422
        content: dict[str, object] = {"results": [result_to_json(result) for result in results]}
        if status == 422:
            content["error"] = results[0].error
        return JsonReply(content, status)

    async def explain(self, request: Request) -> Response:
        """Explain a caption of an image."""
        with self.service.budget.admit() as lease:
            images, settings = await read_uploads(request, self.service.budget, lease)
            if len(images) > 1:
                raise HTTPException(400, f"found {len(images)} images. Send one.")
            if unknown := [name for name, _ in settings if name != "caption"]:
                raise ConfigError(f"{unknown[0]!r:.80} is not a setting. Choose from caption.")
            caption = settings[-1][1] if settings else None
            return JsonReply(explanation_to_json(await self.service.explain(images[0], caption)))

    async def health(self, request: Request) -> Response:
        """Report whether the model accepts images."""
        alive = self.service.model.alive
        return JsonReply({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    async def metrics(self, request: Request) -> Response:
        """Return the counters in the format of Prometheus."""
        text = generate_latest(self.service.metrics.registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: Request) -> Response:
        """Return the description of the interface."""
        return JsonReply(describe_interface(self.service.limits))
