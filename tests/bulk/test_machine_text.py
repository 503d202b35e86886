"""Descriptions of cameras and programs are told from captions of persons.

The machine texts come from the lists named in :mod:`captioning.bulk.writers.machine_text`, and from
files of the devices and programs.
"""

import pytest

from captioning.bulk.writers.machine_text import is_machine_text

MACHINE = r"""
OLYMPUS DIGITAL CAMERA|SONY DSC|SAMSUNG CAMERA PICTURES|SAMSUNG|Exif_JPEG_PICTURE|GE|Minolta DSC
KODAK Digital Still Camera|KONICA MINOLTA DIGITAL CAMERA|JENOPTIK DIGITAL CAMERA|Digital Camera
MOULTRIE DIGITAL GAME CAMERA|ACME DIGITAL CAMERA|<KENOX S1050 / Samsung S1050>|DVC 10.1 HDMI
<Digimax i5, Samsung #1>|Optio|Mavica|Treo|Scanner|Default|<untitled>|Untitled|x-default|image
cof|hdr|dav|oznor|oznorWO|rhdr|sdr|sdr_HDRB|mde_soft|btfmdn|fbthdr|hdrpl|frontbhdp
binary comment|(Binary data 90 bytes)|charset=Ascii|AppleMark|fptrunk|[#]..|iClarified|...|____|?
Created with GIMP|Created with The GIMP|Created by Imlib|Processed with VSCO with c1 preset
CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 90|LEAD Technologies Inc. V1.01
File written by Adobe Photoshop 4.0|Scanned with LiDE 210|Screenshot|Screenshot 2021-07-04 12.34.56
Upscaled with Gigapixel v8.4.4. 1600x1270 => 3200x2540 (2x) Model: High Compression
DCIM\100MEDIA\DJI_0001.JPG|DCIM/100APPLE/IMG_0001.JPG|C:\My Pictures\a.jpg|/storage/emulated/0/a
DSC_0001|_DSC0001|IMG_20210704_123456|IMG-20210704-WA0001|P1010001|20210704_123456|DSC_0001.JPG
2021:07:04 12:34:56|oplus_32|filter: 0; fileterIntensity: 0.0; filterMask: 0|Ohne Titel
"""
HUMAN = r"""
a digital camera on a table|A digital camera|MY NEW DIGITAL CAMERA|an old digital camera
Olympus at sunset|Samsung store in Seoul|Default settings were used|The default|a Nikon D70
Untitled, oil on canvas|Screenshot of my desktop|Screenshot 3 of the error|Scanner on a desk
Created with love by Anna|Made by my daughter in Photoshop class|Scanned in 1998 by Anna
DCIM folder of my camera|he/she at the lake|Anna and/or Ben, see a.jpg|Visit shop.com
Sam 2019|Win 2020|Photo of my cat|image of a man|Monday|mon ami|HDR|dave|2020|#1|true|an unknown man
"""


@pytest.mark.parametrize(("texts", "expected"), [(MACHINE, True), (HUMAN, False)])
def test_machine_text_is_told_from_captions(texts, expected):
    listed = texts.strip().replace("\n", "|").split("|")
    assert [text for text in listed if is_machine_text(text) != expected] == []


@pytest.mark.parametrize("text", ["", " \t\n", "\0\0", "ASCII\0\0\0", "SONY DSC \0", '"SONY  DSC"'])
def test_machine_text_may_be_padded_or_blank(text):
    assert is_machine_text(text)
    assert not is_machine_text(f"{text} dog")


def test_machine_text_may_name_the_device():
    assert is_machine_text("iPhone 14 ", "Apple", "iPhone 14")
    assert not is_machine_text("iPhone 14")
    assert not is_machine_text("my iPhone 14", "Apple", "iPhone 14")
