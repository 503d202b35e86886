"""Rules of the Stanford PTB tokenizer 3.4.1, which divide text into words.

A rule is a regular expression and a :class:`Kind`. Group 1 is the word; text after the group is
context that belongs to the next word. At each position, the rule with the longest match (context
included) applies, and the first of several equally long ones: **the order matters**.

``(?i:...)`` is case-insensitive, everything else is case-sensitive. Within a rule, longer
alternatives come before their own prefixes, because Python takes the first alternative that
matches.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from captioning.text.ptb_characters import FOREIGN_DIGITS, LETTERS, MARKS, SIGNS


class Kind(Enum):
    """How the text of a match is normalized."""

    PLAIN = auto()  # unchanged
    WORD = auto()  # remove soft hyphens
    OPENING = auto()  # opening quote
    CLOSING = auto()  # closing quote or apostrophe
    TAG = auto()  # make spaces non-breaking
    SMILEY = auto()  # replace parentheses by their names
    PHONE = auto()  # replace parentheses by their names, make spaces non-breaking
    ACRONYM = auto()  # remove the period of a single letter
    AMPERSAND = auto()  # replace ``&amp;`` by ``&``
    SIGN = auto()  # replace by a name, such as ``cents`` or ``-LRB-``
    DASH = auto()  # replace by two hyphens
    HYPHENS = auto()  # replace three or four by two
    ELLIPSIS = auto()  # replace by three periods
    SKIP = auto()  # no word: spaces and unknown characters


@dataclass(frozen=True)
class Rule:
    """A pattern of words and their normalization."""

    pattern: re.Pattern[str]
    kind: Kind


def _nocase(words: str) -> str:
    """Return an expression that matches one of ``words`` in any case."""
    return f"(?i:{'|'.join(words.split())})"


# Characters
_L = f"[{LETTERS}]"
_D = f"[0-9{FOREIGN_DIGITS}]"
_LD = f"[{LETTERS}0-9{FOREIGN_DIGITS}]"
_SPACE = r"[ \t\xa0\u2000-\u200a\u3000]"
_BLANK = r"[ \t\xa0\u2000-\u200a\u3000\r\n\v\f\x85\u2028\u2029]"
_MID_SENTENCE = r"[,;:\u3001]"
_APOSTROPHE = rf"(?:['\x92\u2019]|{_nocase('&apos;')})"
_LIKE_APOSTROPHE = rf"(?:{_APOSTROPHE}|[`\x91\u2018\u201b])"
_QUOTE = rf"(?:[`\x91-\x94\xab\xbb\u2018-\u201f\u2039\u203a]{{1,2}}|''|{_APOSTROPHE})"
_DOUBLE_QUOTE = rf"(?:\"|{_nocase('&quot;')})"

# Words. A letter may be an HTML entity. A period between letters does not end a word.
_WORD_L = rf"(?:[{LETTERS}{MARKS}\xad]|&[aeiouAEIOU]{_nocase('acute grave uml')};)"
_WORD_LD = rf"(?:{_WORD_L}|{_D})"
_WORD = rf"{_WORD_L}{_WORD_LD}*(?:[.!?]{_WORD_L}{_WORD_LD}*)*"
_CLITIC = rf"{_APOSTROPHE}(?:[msdMSD]|{_nocase('re ve ll')})"
_NEGATED = r"[A-Za-z\xad]*[A-MO-Za-mo-z]\xad*"
_NEGATION = rf"(?i:n){_LIKE_APOSTROPHE}(?i:t)"
_WITH_APOSTROPHE = "|".join(
    [
        rf"{_APOSTROPHE}(?i:n){_APOSTROPHE}?",
        rf"[A-HJ-XZn]{_LIKE_APOSTROPHE}{_L}{{2,}}",
        rf"[lLdDjJ]{_APOSTROPHE}",
        rf"{_nocase('dunkin somethin ol')}{_APOSTROPHE}",
        rf"{_APOSTROPHE}{_nocase('em till? cause [2-9]0s')}",
        rf"{_L}+[aeiouyAEIOUY]{_LIKE_APOSTROPHE}[aeiouA-Z]{_L}*",
        _nocase(r"cont'd\.? nor'easter c'mon e'er s'mores ev'ry li'l nat'l"),
        rf"(?i:o){_LIKE_APOSTROPHE}(?i:o)",
    ]
)

# Words with hyphens, slashes and ampersands
_ELIDED = rf"(?:[dDoOlL]{_LIKE_APOSTROPHE}{_LD})"
_THING = rf"{_ELIDED}?{_LD}+(?:[-_\u058a\u2010\u2011]{_ELIDED}?{_LD}+)*"
_COUNTRIES = _nocase(r"u\.s\.-u\.k u\.s\.-u\.s\.s\.r (?:canada|sino|korean|eu|japan|non)-u\.s")
_INITIALS = rf"(?:{_COUNTRIES}|[A-Za-z](?:\.[A-Za-z])+)"
_ACRONYM = rf"(?:{_INITIALS}|[A-Za-z])"
_HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:{_INITIALS}\.|[A-Za-z0-9\xad]+))+"
_SLASH_PART = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_FIRM = rf"[A-Z]+(?:(?:[+&]|{_nocase('&amp;')})[A-Z]+)+"
_FIXED = "|".join(
    [
        _nocase(r"-[rl][rcs]b- c\.d\.s pro- anti- s(?:&|&amp;)p-500 s(?:&|&amp;)ls"),
        rf"(?i:cap){_APOSTROPHE}(?i:n)",
        rf"(?i:c){_APOSTROPHE}(?i:est)",
    ]
)

# Numbers
_NUMBER = rf"[-+]?(?:{_D}*(?:[.:,\xad\u066b\u066c]{_D}+)+|{_D}+)"
_DATE = rf"{_D}{{1,2}}[-/]{_D}{{1,2}}[-/]{_D}{{2,4}}"
_RATIO = rf"(?:{_D}{{1,4}}[- \xa0])?{_D}{{1,4}}(?:\\?/|\u2044){_D}{{1,4}}"
_SMALL_NUMBER = (
    r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)"
)
_PHONE = (
    r"(?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])"
    r"[0-9]{3,4}[- \xa0]?[0-9]{3,5}"
)
_DOTTED_PHONE = r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"

# Abbreviations that may end a sentence, that do not end one, and that come before numbers
_ABBREVIATION = "|".join(
    [
        _nocase("jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu thurs fri"),
        _nocase("ala ariz calif colo conn ct dak fla ga ind kans? ky md mich minn mo mont neb nev"),
        _nocase("okla penn tenn va vt wisc? wyo inc cos? corp ltd plc bancorp rt bhd assn univ"),
        _nocase(r"intl sys tel est ext sq [js]r bros (?:ed|ph)\.d esq bldg blvd rd etc al seq"),
        r"A(?i:z|rk)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash)",
        r"(?i:pp?t)[ye](?i:s?)",
    ]
)
_TITLE = "|".join(
    [
        _nocase("mr mrs ms drs? profs? sens? reps? attys? lt col gen messrs govs? adm rev maj sgt"),
        _nocase(
            "cpl pvt capt ste? ave pres lieut hon brig co?mdr pfc spc supts? det mt ft adj adv"
        ),
        _nocase("asst assoc ens insp mlle mme msgr sfc vs alex wm jos cie cf treas ph invt elec"),
        _nocase(r"natl dept a\.k\.a"),
        r"M(?i:iss)|(?i:m)[ft](?i:g)",
        _ACRONYM,
    ]
)
_BEFORE_NUMBER = _nocase("ca figs? prop nos? art bldg pp op")
# Words that begin a sentence, so that the period of an initial before them ends a sentence.
_STARTERS = "|".join(
    [
        "A(?i:dditionally|ccording|bout|fter|n|s|t|)",
        "B(?i:ut)|E(?i:arlier)|I(?i:f|n|t)|L(?i:ast)|N(?i:ow)",
        r"H(?i:owever|ere|er|e)|M(?i:any|ore|r\.|s\.)|O(?i:ther|nce|ne|ur)",
        "S(?i:ince|ome|uch|he|o)|T(?i:heir|here|hese|hat|hen|hey|his|he)",
        "W(?i:hile|hen|hat|e)|Y(?i:et|ou)",
    ]
)

# Web addresses, files and smileys
_NAME = r"[A-Za-z][A-Za-z0-9_:.-]*"
_ATTRIBUTE = rf"{_NAME}(?: *= *(?:'[^'\r\n]*'|\"[^\"\r\n]*\"))?"
_TAG = rf"<(?:[!?][A-Za-z-][^>\r\n]*|/{_NAME}|{_NAME}(?: +(?:{_ATTRIBUTE})?)* */?) *>"
_URL_END = r"[^ \t\n\f\r\"<>|.!?(){},-]"
_URL_PATH = rf"(?:/[^ \t\n\f\r\"<>|()]+{_URL_END})?"
_URL = rf"{_nocase('https?')}://[^ \t\n\f\r\"<>|(){{}}]+{_URL_END}"
_WWW = rf"(?i:www)\.(?:[^ \t\n\f\r\"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}{_URL_PATH}"
# The range from comma to underscore is a mistake of the original: it also excludes capitals and
# digits.
_SITE = rf"(?:[^ \t\n\f\r\"`'<>|.!?(){{}},-_$]+\.)+{_nocase('com net org edu')}{_URL_PATH}"
_MAIL_PART = r"[^ \t\n\f\r\"<>|(){}.\xa0]+"
_MAIL = (
    rf"(?:{_nocase('&lt;')}|<)?[a-zA-Z0-9][^ \t\n\f\r\"<>|(){{}}\xa0]*"
    rf"@(?:{_MAIL_PART}\.)*{_MAIL_PART}(?:{_nocase('&gt;')}|>)?"
)
_FILE_ENDING = "|".join(
    [
        _nocase("bat bmp class cgi cpp c dll docx? exe gif gz html? h jar java jpe?g mov mp3 pdf"),
        _nocase("php pl png ppt ps py sql tar txt wav xml x zip"),
    ]
)
_FILE = rf"{_WORD_LD}+(?:\.{_WORD_LD}+)*\.(?:{_FILE_ENDING})"
_SMILEY = r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]"
_FACE = "|".join(
    [
        r"[\^x=~<>]\.\[\^(?i:x)=[^<]*<>\]",  # mistake of the original, meant as x.x
        r"[-\^x=~<>']_[-\^x=~<>']",
        r"\([-\^x=~<>'][_.]?[-\^x=~<>']\)",
        r"\([\^x=~<>']-[\^x=~<>'`]\)",
    ]
)

_TABLE: tuple[tuple[str, Kind], ...] = (
    (r"([cC]\+\+|(?i:[cf])\#)", Kind.PLAIN),
    (r"((?i:can(?=not)|'t(?=was)))(?i:not|was)", Kind.PLAIN),
    (r"((?i:'t(?=is)|(?:gon|wan)(?=na)|got(?=ta)|(?:lem|gim)(?=me)))(?i:is|na|ta|me)", Kind.PLAIN),
    (rf"({_TAG})", Kind.TAG),
    (rf"({_nocase('&md; &mdash; &ndash;')}|[\x96\x97\u2013-\u2015])", Kind.DASH),
    (rf"({_nocase('&amp;')})", Kind.AMPERSAND),
    (rf"({_nocase('&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|[#][0-9]+);')})", Kind.PLAIN),
    (rf"({_WORD}){_CLITIC}", Kind.WORD),
    (rf"({_NEGATED}){_NEGATION}", Kind.WORD),
    (rf"({_WORD})", Kind.WORD),
    (rf"({_WITH_APOSTROPHE})", Kind.PLAIN),
    (rf"((?i:y){_APOSTROPHE}){_L}", Kind.PLAIN),
    (rf"({_URL})", Kind.PLAIN),
    (rf"({_WWW})", Kind.PLAIN),
    (rf"({_SITE})", Kind.PLAIN),
    (rf"({_MAIL})", Kind.PLAIN),
    (rf"(@[a-zA-Z_][a-zA-Z_0-9]*|\#{_WORD_L}+)", Kind.PLAIN),
    (rf"({_CLITIC})[^A-Za-z]", Kind.CLOSING),
    (rf"({_NEGATION})[^A-Za-z]", Kind.CLOSING),
    (rf"({_DATE})", Kind.PLAIN),
    (rf"({_NUMBER})", Kind.WORD),
    (rf"({_SMALL_NUMBER})", Kind.PLAIN),
    (rf"({_RATIO})", Kind.TAG),
    (r"([\xbc-\xbe\u2153-\u215e])", Kind.SIGN),
    (rf"({_FIXED})", Kind.AMPERSAND),
    (rf"({_SLASH_PART}(?:\\?/{_SLASH_PART}){{1,2}})", Kind.PLAIN),
    (r"([A-Z]*\$|\#)", Kind.PLAIN),
    (r"([\x80\xa2-\xa5\u060b\u0e3f\u20a0\u20a4\u20ac\uffe0\uffe1\uffe5\uffe6])", Kind.SIGN),
    (rf"({_ACRONYM}\.){_BLANK}+(?:{_STARTERS}|{_TAG}){_BLANK}", Kind.ACRONYM),
    (rf"({_BEFORE_NUMBER}\.){_BLANK}?{_D}", Kind.PLAIN),
    (rf"((?i:pt[ey]|co)\.){_SPACE}(?i:ltd|lim)", Kind.PLAIN),
    (rf"((?:{_ABBREVIATION})\.)(?s:..)", Kind.PLAIN),
    (rf"((?:{_ABBREVIATION})\.)", Kind.PLAIN),
    (rf"((?:{_TITLE})\.)", Kind.PLAIN),
    (rf"({_TITLE}){_SPACE}", Kind.PLAIN),
    (rf"({_ACRONYM}){_BLANK}", Kind.PLAIN),
    (rf"({_APOSTROPHE}[0-9][0-9]){_BLANK}", Kind.PLAIN),
    (rf"({_FILE})(?:{_BLANK}|[.?!,])", Kind.PLAIN),
    (rf"({_WORD}\.){_MID_SENTENCE}", Kind.WORD),
    (rf"({_PHONE})", Kind.PHONE),
    (rf"({_DOTTED_PHONE})", Kind.PHONE),
    (rf"({_DOUBLE_QUOTE})[A-Za-z0-9$]", Kind.OPENING),
    (rf"({_DOUBLE_QUOTE})", Kind.CLOSING),
    (r"(\x7f)", Kind.SKIP),
    (rf"([<>]|{_nocase('&lt; &gt;')})", Kind.SIGN),
    (rf"({_SMILEY})[^A-Za-z0-9]", Kind.SMILEY),
    (rf"({_FACE})", Kind.SMILEY),
    (r"([{}\[\]()])", Kind.SIGN),
    (r"(-+)", Kind.HYPHENS),
    (r"(\.{3,5}|(?:\.[ \xa0]){2,4}\.|[\x85\u2026])", Kind.ELLIPSIS),
    (r"(@+|_+|\#+|\*+|(?:\\\*){1,3})", Kind.PLAIN),
    (rf"({_MID_SENTENCE}|[?!]+|[.=/])", Kind.PLAIN),
    (rf"({_HYPHENATED}\.){_MID_SENTENCE}", Kind.WORD),
    (rf"({_HYPHENATED})", Kind.WORD),
    (rf"({_THING}\.){_MID_SENTENCE}", Kind.PLAIN),
    (rf"({_THING})", Kind.PLAIN),
    (rf"({_FIRM}\.){_MID_SENTENCE}", Kind.AMPERSAND),
    (rf"({_FIRM})", Kind.AMPERSAND),
    (r"(')[A-Za-z][^ \t\n\r\xa0]", Kind.OPENING),
    (rf"({_CLITIC})", Kind.CLOSING),
    (rf"({_NEGATION})", Kind.CLOSING),
    (rf"({_QUOTE})", Kind.CLOSING),
    (r"(<<|>>)", Kind.PLAIN),
    (rf"([+&~^|\\\u207a\u207b\u208a\u208b\u2044\u24b6-\u24cf{SIGNS}])", Kind.PLAIN),
    (rf"(\0|{_SPACE}+|[\u200b\u200e\u200f\ufeff]|{_nocase('&nbsp;')})", Kind.SKIP),
    (r"(\r\n|[^\n]|\n)", Kind.SKIP),
)

RULES = tuple(Rule(re.compile(pattern), kind) for pattern, kind in _TABLE)
"""All rules, in order of priority."""
