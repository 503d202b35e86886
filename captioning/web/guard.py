"""Refusal of requests from other web sites and from clients without the token."""

import hmac
from http.cookies import SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captioning.web.json_replies import JsonReply

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Host names in requests to a server that only this computer reaches."""
_COOKIE = "captioning_token"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OPEN_PATHS = ("/health",)
_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; "
     b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]  # fmt: skip


class Guard:
    """Refuses requests that are not from a client of this server.

    A page of another web site can send requests to this computer: its ``Origin`` differs from the
    host, or its host name is not one of this computer (DNS rebinding).

    Args:
        app: The application.
        token: The token that requests need; empty for none. A browser sends it once, as
            ``/?token=...``, and gets a cookie.
        any_host: Accept every host name. Only safe with a token.
    """

    def __init__(self, app: ASGIApp, *, token: str = "", any_host: bool = False) -> None:
        self.app = app
        self.token = token
        self.any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        reply = self._refuse_host(headers, scope["method"]) or self._refuse_token(scope, headers)
        await (reply or self.app)(scope, receive, send_with_headers)

    def _refuse_host(self, headers: Headers, method: str) -> JsonReply | None:
        host = headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if not self.any_host and name not in LOCAL_HOSTS:
            return _refuse(403, f"the host {host!r:.100} is not this computer. Use localhost.")
        origin = headers.get("origin")
        if method not in _SAFE_METHODS and origin and origin.partition("://")[2] != host:
            return _refuse(403, f"requests from {origin!r:.100} are not allowed.")
        return None

    def _refuse_token(
        self, scope: Scope, headers: Headers
    ) -> "JsonReply | RedirectResponse | None":
        if not self.token or scope["path"] in _OPEN_PATHS:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._matches(given):
            redirect = RedirectResponse("/", status_code=303)
            redirect.set_cookie(_COOKIE, self.token, httponly=True, samesite="strict")
            return redirect
        scheme, _, value = headers.get("authorization", "").partition(" ")
        cookie = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
        if scheme.lower() == "bearer" and self._matches(value.strip()):
            return None
        if cookie is not None and self._matches(cookie.value):
            return None
        reply = _refuse(
            401,
            "the token is missing or wrong. Open the address that the server printed, or send the "
            "header Authorization: Bearer TOKEN.",
        )
        reply.headers["WWW-Authenticate"] = "Bearer"
        return reply

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def _refuse(status: int, error: str) -> JsonReply:
    return JsonReply({"error": error}, status)
