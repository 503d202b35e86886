r"""Texts that cameras and programs write where a person's caption belongs.

Cameras fill the EXIF field ``ImageDescription`` with their name, phones with shooting modes, drones
with file paths, and image libraries with their version. Photo programs copy such texts into XMP and
IPTC. They say nothing about the image, so they must not be taken for captions.

Sources: the lists of PhotoPrism (``internal/meta/sanitize.go``), iNaturalist
(``app/models/local_photo.rb``) and KPhotoAlbum (``Settings/SettingsData.cpp``), which agree on most
entries; the codes of Huawei are from PhotoPrism. Only whole texts match: a sentence that contains
such words is a caption.
"""

import re

_CONTROL = re.compile(r"[\s\x00-\x1f\x7f]+")
_CODE_PREFIX = re.compile(r"(ascii|unicode|jis)\x00+", re.IGNORECASE)  # of EXIF UserComment
_BRANDS = (
    "acer|agfa|agfaphoto|aiptek|benq|canon|casio|concord|epson|fuji|fujifilm|ge|hp|jenoptik|jvc|"
    "kodak|konica|konica minolta|kyocera|leica|lg|medion|minolta|moultrie|mustek|nikon|olympus|"
    "om|panasonic|pentax|polaroid|praktica|ricoh|rollei|samsung|sanyo|sigma|sony|toshiba|vivitar|"
    "yashica"
)
_PROGRAMS = (
    "canva|corel|gd|gigapixel|gimp|imagemagick|image ?ready|imlib2?|inkscape|irfanview|jpegmini|"
    "lightroom|lide|paint(\\.net| shop pro)?|photoshop|picasa|pixelmator|snapseed|topaz|vsco"
)
_ENDINGS = "jpe?g|jpe|png|tiff?|gif|bmp|webp|hei[cf]|avif|dng|mp4|mov"
_MODES = (  # of Huawei and Honor phones
    "bt[fr]|[fr]bt|mdn|r?hdr(pl)?|sdr|oznor|cof|dav|mde|edf|frem|rpt|ptr|qrf|mon|nor|burst|fshbty|"
    "frontbhdp"
)
_PATTERNS = [
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"[!-/:-@\[-`{-~ ]*",  # punctuation, or nothing
        # cameras and phones
        rf"(({_BRANDS})( [\w-]+)? )?digital (still |game |video )?camera( pictures?)?",
        r"jpeg|jpg|exif[ _-]jpe?g([ _-](picture|image))?|dcf \d\.\d|dvc \d+\.\d( hdmi)?",
        r"(sony|minolta|konica minolta) dsc(-\w+)?",
        r"samsung( camera pictures)?|ge|scanner|camera ?phone|casio computer co\.?,? ?ltd\.?",
        r"(nikon|pentax|olympus|sony|canon) (corporation|imaging corp\.?|inc\.?)|mavica|optio|treo",
        r"<[^<>]*\b(digimax|kenox|samsung|vluu)\b[^<>]*>",
        r"(oplus|oppo)_\d+|filter: -?\d+; .*",
        # placeholders
        r"<?(untitled|no (title|caption|description|name)|unnamed)>?|default|x-default|none|null",
        r"ohne titel|sans titre|senza titolo|sin t[ií]tulo|unbenannt|undefined|unknown|n/a",
        r"description|image ?description|image|picture|photo|digital image",
        # programs and libraries
        rf"(\w+ ){{1,2}}(in|with|by|using) (the )?((adobe|corel|topaz) )?({_PROGRAMS})[\W\d]*",
        r"file written by adobe photoshop.*|upscaled with gigapixel v?\d.*|processed with vsco.*",
        r"creator: gd-jpeg.*|lead technologies,? inc.*|intel\(r\) jpeg library.*|applemark",
        r"optimi[sz]ed by jpegmini.*|paint tool -sai-.*|handmade software, inc.*|ac[dl] systems.*",
        r"created by imlib|iclarified|picasa|fptrunk|\[#\].*",
        r"\(?(binary (comment|data)|string with binary data).*|charset=.*|ascii|unicode",
        # files, paths and times
        rf"([a-z]:[\\/].*|\S*[\\/]\S*)\.({_ENDINGS})",
        r"([a-z]:)?[\\/]?dcim([\\/].*)?|(/storage/|/sdcard/|content://|file://)\S*",
        rf"\S+( \S+){{0,2}}\.({_ENDINGS})",
        r"_?(dsc[fnp]?|img|imgp|imag|pict|cimg|mvi|mvimg|pxl|vid|gopr|dji|sdc|kif|hpim)[-_ ]?"
        r"\d{3,}[\w()~-]*|(sam|win|wp)_\d{3,}\w*",
        r"p[\da-c]\d{6}|(img-|image-?|photo-?)?\d{8}[-_t]?(\d{6,9}|wa\d+)|dji_fly_\w+",
        r"\d{4}[:-]\d\d[:-]\d\d[ t]\d\d[:.]\d\d[:.]\d\d\S*",
        r"screen ?shot([-_ ]+(from )?\d[\d\W]*(at [\d\W]*)?([ap]m)?\w*)?",
    )
]
_EXACT_CASE = re.compile(
    r"(?!(A|AN|THE|THIS|MY|OUR|HIS|HER|OLD|NEW) )([A-Z][\w&-]* ){1,3}DIGITAL (STILL )?CAMERA"
    rf"|({_MODES})([_-]?({_MODES}|HDRB|WO|soft|vivid|cuva))*"
)


def is_machine_text(text: str, *device_names: str) -> bool:
    """Return whether a description was written by a device or a program, or has no content.

    Args:
        text: A whole description.
        device_names: Make, model and software of the image, which devices also write as its
            description.
    """
    text = _normalize(text)
    if not text or text.casefold() in {_normalize(name).casefold() for name in device_names}:
        return True
    return any(pattern.fullmatch(text) for pattern in (*_PATTERNS, _EXACT_CASE))


def _normalize(text: str) -> str:
    return _CONTROL.sub(" ", _CODE_PREFIX.sub("", text)).strip(" \"'")
