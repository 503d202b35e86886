"""Description of the HTTP interface in the format OpenAPI 3.1."""

from dataclasses import MISSING, fields
from typing import Any

from captioning import __version__
from captioning.decoding import METHODS, SearchMethod
from captioning.field_texts import read_field_texts
from captioning.web.limits import ServerLimits

_TYPES: dict[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    tuple[str, ...]: {"type": "array", "items": {"type": "string"}},
}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT, _WORDS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_NUMBER, _NUMBER_OR_NULL = {"type": "number"}, {"type": ["number", "null"]}
_CAPTION = _object(
    text=_TEXT,
    probability=_NUMBER,
    log_prob=_NUMBER_OR_NULL,
    finished={"type": "boolean"},
    words=_WORDS,
    word_log_probs={"type": "array", "items": _NUMBER_OR_NULL},
)
_RESULT = _object(
    image=_TEXT,
    captions={"type": "array", "items": _CAPTION},
    error={"type": ["string", "null"]},
)
_RESULTS = _object(results={"type": "array", "items": _RESULT})
_STEP = _object(
    word=_TEXT,
    probability=_NUMBER,
    likely={"type": "array", "items": _object(word=_TEXT, probability=_NUMBER)},
    attention={"type": ["array", "null"]},
)
_EXPLANATION = _object(
    words=_WORDS,
    steps={"type": "array", "items": _STEP},
    concepts={"type": "array", "items": _object(word=_TEXT, strength=_NUMBER)},
    thumbnail=_TEXT,
)
_ERRORS = {
    400: "The request has no image, or its form cannot be read.",
    401: "The token is missing or wrong.",
    403: "The request comes from another web site.",
    413: "The body is too large.",
    415: "The body is neither an image nor a form.",
    422: "No image can be read, or a setting is wrong.",
    503: "Too many requests are not answered yet.",
    504: "There is no result within the time limit.",
}


def describe_settings(method: type[SearchMethod]) -> dict[str, dict[str, Any]]:
    """Return the schema of each setting of a search method, with its text and default."""
    texts = read_field_texts(method)
    return {
        field.name: {
            **_TYPES[field.type],
            "description": texts[field.name],
            **({} if field.default is MISSING else {"default": _to_json(field.default)}),
        }
        for field in fields(method)
    }


def _to_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def describe_interface(limits: ServerLimits) -> dict[str, Any]:
    """Return the OpenAPI document of a server with these limits."""
    caption_text = {"type": "string", "description": "The caption; without it, the model's own."}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "captioning",
            "version": __version__,
            "description": f"Captions of images. A body has at most {limits.body_bytes:,} bytes.",
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
        "paths": {
            "/caption": {"post": _upload("Caption one or more images.", _settings(), _RESULTS)},
            "/explain": {
                "post": _upload(
                    "Return the next words, the attention and the concepts for a caption.",
                    {"caption": caption_text},
                    _EXPLANATION,
                )
            },
            "/health": _get("Whether the model accepts images.", "application/json"),
            "/metrics": _get("Counters in the format of Prometheus.", "text/plain"),
            "/openapi.json": _get("This document.", "application/json"),
        },
    }


def _settings() -> dict[str, dict[str, Any]]:
    """Return the schema of each setting of a search; its default is that of the model."""
    schemas: dict[str, dict[str, Any]] = {
        "search": {"type": "string", "enum": list(METHODS), "description": "Search method."},
        "seed": {
            **{"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "default": 0},
            "description": "Random seed of sampling.",
        },
    }
    for method in METHODS.values():
        for name, schema in describe_settings(method).items():
            schemas.setdefault(name, {k: v for k, v in schema.items() if k != "default"})
    return schemas


def _upload(
    summary: str, settings: dict[str, dict[str, Any]], result: dict[str, Any]
) -> dict[str, Any]:
    """Return the description of an endpoint that takes images."""
    raw = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    form = {"type": "object", "properties": {"image": files}, "required": ["image"]}
    error = {"application/json": {"schema": _object(error={"type": "string"})}}
    return {
        "summary": summary,
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in settings.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": raw,
                "application/octet-stream": raw,
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": {"schema": result}}},
            **{
                str(code): {"description": text, "content": error} for code, text in _ERRORS.items()
            },
        },
    }


def _get(summary: str, media_type: str) -> dict[str, Any]:
    content: dict[str, Any] = {media_type: {}}
    return {
        "get": {
            "summary": summary,
            "responses": {"200": {"description": "Done.", "content": content}},
        }
    }
