"""What the Stanford PTB tokenizer 3.4.1 takes for one word: a list of rules, tried at each place.

A rule is a regular expression and a :class:`Kind`. Group 1 is the word; what follows it in the
expression is context that must stand there but belongs to the next word. The rule whose whole
match (context included) is longest wins, and the first of equally long ones: the order counts.

Case is as in the original: ``(?i:...)`` marks what may be written in any case, and single
letters in brackets keep their case.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from captioning.data.ptb_characters import FOREIGN_DIGITS, LETTERS, MARKS, SIGNS


class Kind(Enum):
    """What becomes of the text that a rule found."""

    PLAIN = auto()  # stays as it is
    WORD = auto()  # loses soft hyphens
    OPENING = auto()  # a quote that opens
    CLOSING = auto()  # a quote that closes, or an apostrophe
    TAG = auto()  # its blanks become non-breaking
    SMILEY = auto()  # its parentheses are spelled out
    PHONE = auto()  # its parentheses are spelled out, its blanks become non-breaking
    ACRONYM = auto()  # a single letter loses its period
    AMPERSAND = auto()  # ``&amp;`` becomes ``&``
    CURRENCY = auto()  # cents, pounds and euros are written as the Penn Treebank does
    FRACTION = auto()  # a character such as one half is spelled out
    ELLIPSIS = auto()  # becomes three dots
    DASH = auto()  # a long one becomes two hyphens
    LESS = auto()  # ``&lt;`` becomes ``<``
    GREATER = auto()  # ``&gt;`` becomes ``>``
    BRACKET = auto()  # is spelled out
    NOTHING = auto()  # gives no word: blanks, and what the tokenizer does not know


@dataclass(frozen=True)
class Rule:
    """One kind of word."""

    pattern: re.Pattern[str]
    kind: Kind


_LETTER = f"[{LETTERS}]"
_DIGIT = f"[0-9{FOREIGN_DIGITS}]"
_ALNUM = f"[{LETTERS}0-9{FOREIGN_DIGITS}]"
_SPACE_SET = r" \t\xa0\u2000-\u200a\u3000"
_SPACE = f"[{_SPACE_SET}]"
_BLANK = rf"[{_SPACE_SET}\r\n\v\f\x85\u2028\u2029]"
_NO_BLANK = rf"[^{_SPACE_SET}\r\n\v\f\x85\u2028\u2029]"

# A letter may be spelled as an HTML entity.
_WORD_LETTER = rf"(?:[{LETTERS}{MARKS}\xad]|&[aeiouAEIOU](?i:acute|grave|uml);)"
_WORD_SIGN = rf"(?:{_WORD_LETTER}|{_DIGIT})"
_WORD = rf"{_WORD_LETTER}{_WORD_SIGN}*(?:[.!?]{_WORD_LETTER}{_WORD_SIGN}*)*"

_APOSTROPHE = r"(?:['\x92\u2019]|(?i:&apos;))"
_ANY_APOSTROPHE = rf"(?:{_APOSTROPHE}|[`\x91\u2018\u201b])"
_CLITIC = rf"{_APOSTROPHE}(?:[msdMSD]|(?i:re|ve|ll))"
_NEGATION = rf"(?i:n){_ANY_APOSTROPHE}(?i:t)"

_NUM = rf"(?:{_DIGIT}*(?:[.:,\xad\u066b\u066c]{_DIGIT}+)+|{_DIGIT}+)"
_NUMBER = rf"[-+]?{_NUM}"
_HYPHEN = r"[-_\u058a\u2010\u2011]"

_PREFIX = rf"(?:[dDoOlL]{_ANY_APOSTROPHE}{_ALNUM})"
_THING = rf"{_PREFIX}?{_ALNUM}+(?:{_HYPHEN}{_PREFIX}?{_ALNUM}+)*"
_AMPERSAND_NAME = r"[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+"
_SLASH_PART = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_ACRONYM_LONG = (
    r"(?:(?i:u\.s\.-(?:u\.k|u\.s\.s\.r)|(?:canada|sino|korean|eu|japan|non)-u\.s)"
    r"|[A-Za-z](?:\.[A-Za-z])+)"
)
_ACRONYM = rf"(?:{_ACRONYM_LONG}|[A-Za-z])"
_HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:{_ACRONYM_LONG}\.|[A-Za-z0-9\xad]+))+"

_URL_END = r"[^ \t\n\f\r\"<>|.!?(){},\-]"
_URL_PATH = rf"(?:/[^ \t\n\f\r\"<>|()]+{_URL_END})"

_ABBREVIATION = (
    r"(?:(?i:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
    r"|mon|tues?|wed|thu|thurs|fri"
    r"|ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb"
    r"|nev|okla|penn|tenn|va|vt|wisc?|wyo"
    r"|inc|cos?|corp|ltd|plc|bancorp|rt|bhd|assn|univ|intl|sys"
    r"|tel|est|ext|sq|[js]r|bros|(?:ed|ph)\.d|esq|bldg|blvd|rd|etc|al|seq)"
    r"|(?i:pp?t)[ye](?i:s?)|[A](?i:z|rk)|[D](?i:el)|[I](?i:ll)|[L](?i:a)|[M](?i:ass|iss)|[O](?i:re)|[P](?i:a)"
    r"|[T](?i:ex)|[W](?i:ash))"
)
_TITLE = (
    rf"(?:(?i:mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt"
    r"|cpl|pvt|capt|ste?|ave|pres|lieut|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc"
    r"|ens|insp|mlle|mme|msgr|sfc|vs|alex|wm|jos|cie|a\.k\.a|cf|treas|ph|invt|elec|natl|dept)"
    rf"|[M](?i:iss)|(?i:m)[ft](?i:g)|{_ACRONYM})"
)
_BEFORE_NUMBER = r"(?i:ca|figs?|prop|nos?|art|bldg|pp|op)\."



_BY_SENTENCE_STARTERS = (
    r"(?:A(?i:dditionally|ccording|bout|fter|n|s|t|)|B(?i:ut)|E(?i:arlier)|H(?i:owever|ere|er|e)|I(?i:f|n|t)|L(?i:ast)|M(?i:any|ore|r\.|s\.)|N(?i:ow)|O(?i:ther|nce|ne|ur)|S(?i:ince|ome|uch|he|o)|T(?i:heir|here|hese|hat|hen|hey|his|he)|W(?i:hile|hen|hat|e)|Y(?i:et|ou))"
)
_SGML = (
    r"<(?:[!?][A-Za-z\-][^>\r\n]*|/[A-Za-z][A-Za-z0-9_:.\-]*"
    r"|[A-Za-z][A-Za-z0-9_:.\-]*(?: +(?:[A-Za-z][A-Za-z0-9_:.\-]*(?: *= *(?:'[^'\r\n]*'|\"[^\"\r\n]*\"))?))* */?) *>"
)
_IN_SENTENCE = r"[,;:\u3001]"
_QUOTE = rf"(?:[`\x91-\x94\xab\xbb\u2018-\u201f\u2039\u203a]{{1,2}}|''|{_APOSTROPHE})"
_EYES_AND_MOUTH = r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]"
_FILE_ENDINGS = (
    "bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png"
    "|ppt|ps|py|sql|tar|txt|wav|x|xml|zip"
)

_TABLE: tuple[tuple[str, Kind], ...] = (
    (r"([cC]\+\+|(?i:[cf])\#)", Kind.PLAIN),
    (r"((?i:can(?=not)|'t(?=was)))(?i:not|was)", Kind.PLAIN),
    (rf"('(?i:t)(?=(?i:is))|(?i:gon)(?=(?i:na))|(?i:got)(?=(?i:ta))|(?i:lem|gim)(?=(?i:me))|(?i:wan)(?=(?i:na)))(?i:is|na|ta|me)", Kind.PLAIN),
    (rf"({_SGML})", Kind.TAG),
    (r"((?i:&md;|&mdash;|&ndash;)|[\x96\x97\u2013-\u2015])", Kind.DASH),
    (r"((?i:&amp;))", Kind.AMPERSAND),
    (r"((?i:&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|\#[0-9]+);))", Kind.PLAIN),
    (rf"({_WORD}){_CLITIC}", Kind.WORD),
    (rf"([A-Za-z\xad]*[A-MO-Za-mo-z]\xad*){_NEGATION}", Kind.WORD),
    (rf"({_WORD})", Kind.WORD),
    (rf"({_APOSTROPHE}(?i:n){_APOSTROPHE}?|[A-HJ-XZn]{_ANY_APOSTROPHE}{_LETTER}{{2,}}|[lLdDjJ]{_APOSTROPHE}|(?i:dunkin|somethin|ol){_APOSTROPHE}"
     rf"|{_APOSTROPHE}(?i:em)|{_APOSTROPHE}[2-9]0(?i:s)"
     rf"|{_APOSTROPHE}(?i:till?)|{_LETTER}+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z]{_LETTER}*"
     rf"|{_APOSTROPHE}(?i:cause)|(?i:cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)|(?i:o){_ANY_APOSTROPHE}(?i:o))", Kind.PLAIN),
    (rf"((?i:y){_APOSTROPHE}){_LETTER}", Kind.PLAIN),
    (rf"((?i:https?)://[^ \t\n\f\r\"<>|(){{}}]+{_URL_END})", Kind.PLAIN),
    (rf"((?i:www)\.(?:[^ \t\n\f\r\"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}{_URL_PATH}?)", Kind.PLAIN),
    (rf"((?:[^ \t\n\f\r\"`'<>|.!?(){{}},-_$]+\.)+(?i:com|net|org|edu){_URL_PATH}?)", Kind.PLAIN),
    (r"((?:(?i:&lt;)|<)?[a-zA-Z0-9][^ \t\n\f\r\"<>|()\xa0{}]*@(?:[^ \t\n\f\r\"<>|(){}.\xa0]+\.)*[^ \t\n\f\r\"<>|(){}.\xa0]+(?:(?i:&gt;)|>)?)", Kind.PLAIN),
    (rf"(@[a-zA-Z_][a-zA-Z_0-9]*|\#{_WORD_LETTER}+)", Kind.PLAIN),
    (rf"({_CLITIC})[^A-Za-z]", Kind.CLOSING),
    (rf"({_NEGATION})[^A-Za-z]", Kind.CLOSING),
    (rf"({_DIGIT}{{1,2}}[-/]{_DIGIT}{{1,2}}[-/]{_DIGIT}{{2,4}})", Kind.PLAIN),
    (rf"({_NUMBER})", Kind.WORD),
    (r"([\u207a\u207b\u208a\u208b]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+))", Kind.PLAIN),
    (rf"((?:{_DIGIT}{{1,4}}[- \xa0])?{_DIGIT}{{1,4}}(?:\\?/|\u2044){_DIGIT}{{1,4}})", Kind.TAG),
    (r"([\xbc\xbd\xbe\u2153-\u215e])", Kind.FRACTION),
    (rf"((?i:-[rl][rcs]b-|c\.d\.s|pro-|anti-|s(?:&|&amp;)p-500|s(?:&|&amp;)ls)|(?i:cap){_APOSTROPHE}(?i:n)|(?i:c){_APOSTROPHE}(?i:est))", Kind.AMPERSAND),
    (rf"({_SLASH_PART}(?:\\?/{_SLASH_PART}){{1,2}})", Kind.PLAIN),
    (r"([A-Z]*\$|\#)", Kind.PLAIN),
    (r"([\x80\xa2-\xa5\u060b\u0e3f\u20a0\u20a4\u20ac\uffe0\uffe1\uffe5\uffe6])", Kind.CURRENCY),
    (rf"({_ACRONYM}\.){_BLANK}+(?:{_BY_SENTENCE_STARTERS}|{_SGML}){_BLANK}", Kind.ACRONYM),
    (rf"({_BEFORE_NUMBER}){_BLANK}?{_DIGIT}", Kind.PLAIN),
    (rf"((?i:pt[ey]|co)\.){_SPACE}(?i:ltd|lim)", Kind.PLAIN),
    (rf"({_ABBREVIATION}\.)(?s:..)", Kind.PLAIN),
    (rf"({_ABBREVIATION}\.)", Kind.PLAIN),
    (rf"({_TITLE}\.)", Kind.PLAIN),
    (rf"({_TITLE}){_SPACE}", Kind.PLAIN),
    (rf"({_ACRONYM}){_BLANK}", Kind.PLAIN),
    (rf"({_APOSTROPHE}[0-9][0-9]){_BLANK}", Kind.PLAIN),
    (rf"({_WORD_SIGN}+(?:\.{_WORD_SIGN}+)*\.(?i:{_FILE_ENDINGS}))(?:{_BLANK}|[.?!,])", Kind.PLAIN),
    (rf"({_WORD}\.){_IN_SENTENCE}", Kind.WORD),
    (r"((?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[\- \xa0])?[0-9]{2,4}[\- \xa0])"
     r"[0-9]{3,4}[\- \xa0]?[0-9]{3,5})", Kind.PHONE),
    (r"((?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5})", Kind.PHONE),
    (r"(\"|(?i:&quot;))[A-Za-z0-9$]", Kind.OPENING),
    (r"(\"|(?i:&quot;))", Kind.CLOSING),
    (r"(\x7f)", Kind.NOTHING),
    (r"(<|(?i:&lt;))", Kind.LESS),
    (r"(>|(?i:&gt;))", Kind.GREATER),
    (rf"({_EYES_AND_MOUTH})[^A-Za-z0-9]", Kind.SMILEY),
    (r"([\^x=~<>]\.\[\^(?i:x)=[^<]*<>\]|[\-\^x=~<>']_[\-\^x=~<>']|\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\))", Kind.SMILEY),
    (r"([{}\[\]()])", Kind.BRACKET),
    (r"(-+)", Kind.DASH),
    (r"(\.{3,5}|(?:\.[ \xa0]){2,4}\.|[\x85\u2026])", Kind.ELLIPSIS),
    (r"(@+|_+|\#+)", Kind.PLAIN),
    (r"(\*+|(?:\\\*){1,3})", Kind.PLAIN),
    (rf"({_IN_SENTENCE}|[?!]+|[.=])", Kind.PLAIN),
    (r"(/)", Kind.PLAIN),
    (rf"({_HYPHENATED}\.){_IN_SENTENCE}", Kind.WORD),
    (rf"({_HYPHENATED})", Kind.WORD),
    (rf"({_THING}\.){_IN_SENTENCE}", Kind.PLAIN),
    (rf"({_THING})", Kind.PLAIN),
    (rf"({_AMPERSAND_NAME}\.){_IN_SENTENCE}", Kind.AMPERSAND),
    (rf"({_AMPERSAND_NAME})", Kind.AMPERSAND),
    (r"(')[A-Za-z][^ \t\n\r\xa0]", Kind.OPENING),
    (rf"({_CLITIC})", Kind.CLOSING),
    (rf"({_NEGATION})", Kind.CLOSING),
    (rf"({_QUOTE})", Kind.CLOSING),
    (r"(<<|>>)", Kind.PLAIN),
    (rf"([+&~^|\\\u207a\u207b\u208a\u208b\u2044{SIGNS}\u24b6-\u24cf])", Kind.PLAIN),
    (rf"(\0|{_SPACE}+|[\u200b\u200e\u200f\ufeff])", Kind.NOTHING),
    (r"(\r\n|[\r\n\v\f\u2028\u2029])", Kind.NOTHING),
    (r"((?i:&nbsp;))", Kind.NOTHING),
    (r"([^\n])", Kind.NOTHING),
)

RULES = tuple(Rule(re.compile(pattern), kind) for pattern, kind in _TABLE)
