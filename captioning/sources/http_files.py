"""Files behind HTTP(S) URLs: opening with retries, and errors that name the reason."""

import errno
import time
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import Any

_BUSY = (429, 502, 503, 504)
_WAITS = (1.0, 2.0, 4.0)  # seconds before each retry, if the server does not state them
_CHECK_URL = "Check the URL."
_LATER = "Run the command again later."
_LOGIN = "Download the image in a browser, and caption the file."
_STATUS_ADVICE = {
    401: _LOGIN,
    403: _LOGIN,
    407: "Log in to the proxy.",
    408: _LATER,
    410: "The file was removed; leave the URL out.",
    429: f"{_LATER} --workers 1 sends fewer requests at a time.",
    451: _LOGIN,
}


def open_http(system: Any, url: str, time_limit: float) -> Any:
    """Return the open body of a response, to be read once and in order.

    A request to a busy server (status 429, 502, 503 or 504) is retried up to three times: after
    the time in ``Retry-After``, or after 1, 2 and 4 seconds.

    Args:
        system: The fsspec file system of the URL.
        url: URL of the file.
        time_limit: Seconds for all attempts, and for each wait for data.

    Raises:
        Exception: The request failed; see :func:`explain_http_error`.
    """
    import aiohttp  # of the extra "http"; fsspec needs it too

    timeout = aiohttp.ClientTimeout(None, sock_connect=time_limit, sock_read=time_limit)
    deadline = time.monotonic() + time_limit
    waits = iter(_WAITS)
    while True:
        try:
            # One request for the whole file. Without size and block_size, fsspec first sends a
            # HEAD request, and does not report its status.
            return system.open(url, "rb", block_size=0, size=1, timeout=timeout)
        except aiohttp.ClientResponseError as error:
            wait = _retry_after(error.headers, next(waits, None))
            if error.status not in _BUSY or wait is None or time.monotonic() + wait >= deadline:
                raise
            time.sleep(wait)


def _retry_after(headers: Any, otherwise: float | None) -> float | None:
    """Return the seconds that a response states (RFC 9110, section 10.2.3); None for no retry."""
    stated = (headers or {}).get("Retry-After", "").strip()
    if otherwise is None or not stated:
        return otherwise
    if stated.isdecimal():
        return float(stated)
    try:
        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    except (ValueError, OverflowError):
        return otherwise


def explain_http_error(error: Exception, time_limit: float) -> str:
    """Return why a request failed, and what to do, as two sentences."""
    import aiohttp

    match error:
        case FileNotFoundError():
            reason = _explain_status(404)
        case aiohttp.TooManyRedirects():
            reason = f"the server redirects in a circle. {_CHECK_URL}"
        case aiohttp.ClientResponseError(message=str() as text) if "\n" in text:
            reason = f"the server does not answer in HTTP. {_CHECK_URL}"
        case aiohttp.ClientResponseError():
            reason = _explain_status(error.status)
        case aiohttp.ClientPayloadError():
            reason = f"the connection ended before the end of the file. {_LATER}"
        case aiohttp.ClientConnectorError():
            reason = _explain_connection(error, f"{error.host}:{error.port}")
        case TimeoutError():
            reason = explain_timeout(time_limit)
        case ValueError():
            reason = f"the URL is not valid ({error}). {_CHECK_URL}"
        case _:
            reason = f"the server closed the connection ({type(error).__name__}). {_LATER}"
    return reason


def explain_timeout(time_limit: float) -> str:
    """Return that a server did not answer, and what to do."""
    return f"no answer within {time_limit:g} seconds. Try again, or raise the time limit."


def _explain_connection(error: Any, place: str) -> str:
    import aiohttp

    reason = str(error.os_error.strerror or error.os_error)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return (
            f"unknown host '{error.host}' ({reason}). Check its spelling, and your network "
            "connection."
        )
    if isinstance(error, aiohttp.ClientSSLError):
        advice = "Check host, port and clock. Set SSL_CERT_FILE to certificates of your own."
        return f"no secure connection to {place} ({reason.partition(' (_ssl')[0]}). {advice}"
    if error.os_error.errno == errno.ECONNREFUSED or f"[Errno {errno.ECONNREFUSED}]" in reason:
        return f"{place} refuses the connection. Check host and port, and that the server runs."
    return f"cannot connect to {place} ({reason}). Check your network connection."


def _explain_status(status: int) -> str:
    is_fault_of_server = status >= 500
    advice = _STATUS_ADVICE.get(status, _LATER if is_fault_of_server else _CHECK_URL)
    return f"HTTP status {status} ({responses.get(status, 'unknown')}). {advice}"
