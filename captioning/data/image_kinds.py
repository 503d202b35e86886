"""What a file is that is no picture, told from how it begins."""

import importlib
import importlib.util

_SIGNATURES = (
    (b"\xff\xd8", "it begins as a JPEG does, but is damaged or cut short. Get it again."),
    (b"\x89PNG", "it begins as a PNG does, but is damaged or cut short. Get it again."),
    (b"GIF8", "it begins as a GIF does, but is damaged or cut short. Get it again."),
    (b"BM", "it begins as a BMP does, but is damaged or cut short. Get it again."),
    (b"RIFF", "it begins as a WebP or a video does, but is damaged or cut short. Get it again."),
    (b"II*\0", "it begins as a TIFF does, but is damaged or a camera's raw file. Convert it."),
    (b"MM\0*", "it begins as a TIFF does, but is damaged or a camera's raw file. Convert it."),
    (b"%PDF", "it is a PDF document. Save its pages as pictures."),
    (b"PK\x03\x04", "it is a zip archive or an office document. Unpack it."),
    (b"\x1aE\xdf\xa3", "it is a video. Save a frame as a picture."),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def describe_contents(head: bytes) -> str:
    """Say what a file holds that Pillow cannot open, and what to do.

    Args:
        head: Its first bytes.
    """
    if not head:
        return "it is empty. Get it again."
    if not head.strip(b"\0"):
        return "it begins with zeros only, as after a broken copy. Get it again."
    found = [found for signature, found in _SIGNATURES if head.startswith(signature)]
    if found:
        return found[0]
    if head[4:8] == b"ftyp":
        return _describe_media(head[8:12])
    if text := _text(head):
        return _describe_text(text)
    return f"Pillow knows no format that begins with {head[:12]!r}. Convert it to PNG or JPEG."


def _describe_text(text: str) -> str:
    if "<svg" in text:
        return "it is an SVG drawing. Convert it to PNG."
    if "<html" in text or "<!doctype html" in text:
        return "it is a web page; a download may have failed. Get it again."
    return f"it holds text ({text[:20]!r}). Check what the file is."


def _describe_media(brand: bytes) -> str:
    if brand in _HEIF_BRANDS:
        return "it is a HEIC picture. Install its decoder: pip install pillow-heif."
    if brand in (b"avif", b"avis"):
        return "it is a damaged AVIF, or this Pillow reads none: pip install -U pillow."
    return "it is a video. Save a frame as a picture."


def _text(head: bytes) -> str:
    try:
        # A long head may end in the middle of a character.
        text = head.decode("utf-8", "strict" if len(head) < 256 else "ignore").lower()
    except UnicodeDecodeError:
        return ""
    plain = sum(each.isprintable() or each.isspace() for each in text)
    return text if text.strip() and plain == len(text) else ""


def learn_heif(head: bytes) -> bool:
    """Teach Pillow to read HEIC, where ``head`` begins such a file and pillow-heif is installed."""
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS:
        return False
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True
