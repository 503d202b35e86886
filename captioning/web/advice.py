"""Advice in errors, for a person who has a page instead of a command line."""

import re
from typing import Any

_ADVICE = (
    (r", or use captioning caption --.*", "."),
    (r"To caption a list of image paths: .*", "Replace it with an image."),
    (r"(Install its decoder|Update it): .*", "Convert it to PNG or JPEG."),
    (r"Run: git .*", "Replace it with the image itself."),
    (r"Name it in the command to caption its images\.", "Unpack it."),
    (r"Add --follow-links to read it\.", "Copy the image into the folder."),
    (r"Decode images in this process instead: --workers 0\.", "Start the server again."),
    (r"Then run the same command; it continues", "Then use the button above; it continues"),
    (r"Remove it, or use another -o\.", "Remove it."),
    (r"Free some space, or use another -o\.", "Free some space, and save again."),
    (r"Use --overwrite to start again, or another -o\.", "Delete it, and start the server again."),
    (r"Run the command again\.", "Save again."),
    (r"^-o ", ""),
    (
        r"((Use|Write into) another folder: -o FOLDER|Use another -o)\.",
        "Check the file and its folder, or choose another format.",
    ),
)
"""Advice of commands (a pattern), and advice for a page."""


def advise_on_page(content: Any) -> Any:
    """Return the content of a reply, in whose errors the advice is for a page.

    Args:
        content: JSON data. The value of each key ``error`` is an error.
    """
    if isinstance(content, list):
        return [advise_on_page(each) for each in content]
    if not isinstance(content, dict):
        return content
    return {
        key: replace_commands(value)
        if key == "error" and isinstance(value, str)
        else advise_on_page(value)
        for key, value in content.items()
    }


def replace_commands(error: str) -> str:
    """Return an error with advice for a page."""
    for command, advice in _ADVICE:
        error = re.sub(command, advice, error, flags=re.DOTALL)
    return error
