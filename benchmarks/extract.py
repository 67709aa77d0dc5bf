"""Turn the files of documentation packages into plain text, and guess its language.

The files are HTML, XML, man pages and message catalogues. The aim is prose to tokenise, not a faithful
rendering. Every function is pure, but for the set that `drop_seen_lines` updates.
"""

import bz2
import gzip
import re
import struct
from collections.abc import Callable
from html.parser import HTMLParser

_HIDDEN = frozenset({"script", "style", "head", "svg", "nav", "footer"})
_INLINE_TAGS = (
    "a abbr acronym b bdi big cite code del dfn em emph font guilabel i gui guiseq ins kbd key keyseq label "
    "link q rp s samp small span strong sub sup tt u var wbr app cmd file input output sys"
)
_INLINE = frozenset(_INLINE_TAGS.split())
_SPACES = re.compile(r"\s+")
_CHARSET = re.compile(rb"charset=[\"']?([A-Za-z0-9_-]+)")
_FORMATS = re.compile(
    r"\.(?:(?P<html>x?html?(?:\.[A-Za-z-]{2,5})?(?:\.utf8)?)|(?P<xml>page)|(?P<mo>mo)|(?P<man>[1-9][a-z]{0,4})"
    r"|(?P<plain>txt|rst|md|pod))(?:\.gz|\.bz2)?$"
)
_MAN_ESCAPE = re.compile(r"\\(?:f(?:\[[^]]*\]|\(..|.)|s[-+]?\d|\*(?:\(..|.)|[&/,|^%:])")
_MAN_TITLES = (".SH ", ".SS ", ".B ", ".I ", ".BR ", ".IR ", ".BI ", ".RB ", ".RI ", ".IP ")
_CODES = (
    "am ar as ast bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fr ga gl gu he hi hr hu id is it "
    "ja ka kk km kn ko ku lo lt lv mk ml mr my nb ne nl nn oc om or pa pl pt ro ru si sk sl sq sr sv ta te "
    "th tr ug uk ur uz vi zh"
)
_CODE = re.compile(rf"(?:^|[-./_])(({'|'.join(_CODES.split())})(?:[-_@][A-Za-z]{{2,5}})?)(?=$|[-./])")
_CJK = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_SAMPLE_CHARS = 4000


def text_format(name: str) -> str | None:
    """Return the format of a file by its name: html, xml, mo, man, plain, or None for any other.

    >>> text_format("ls.1.gz"), text_format("index.html.de"), text_format("logo.png")
    ('man', 'html', None)
    """
    match = _FORMATS.search(name)
    return match.lastgroup if match else None


def extract_text(name: str, data: bytes) -> str:
    """Return the text of a file in one of these formats, which may be compressed (.gz, .bz2)."""
    kind = text_format(name)
    if kind is None:
        raise ValueError(f"{name}: no text is known to be in such a file")
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    elif name.endswith(".bz2"):
        data = bz2.decompress(data)
    return _READERS[kind](data)


def decode(data: bytes) -> str:
    """Decode as UTF-8, or as the charset that the file declares, or as Latin-1, which always succeeds."""
    declared = _CHARSET.search(data[:4096])
    for encoding in ("utf-8", declared[1].decode("ascii") if declared else "latin-1"):
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("latin-1")


def drop_seen_lines(text: str, seen: set[int]) -> str:
    """Drop lines that are in `seen` (hashes, updated here) and blank lines after a blank one."""
    kept: list[str] = []
    for line in text.splitlines():
        line = line.rstrip()
        if not line.strip():
            if kept and kept[-1]:
                kept.append("")
        elif (key := hash(line)) not in seen:
            seen.add(key)
            kept.append(line)
    return "\n".join(kept).strip("\n") + "\n\n" if kept else ""


def language_of(package: str, path: str) -> str:
    """Return a two-letter code: the package's own suffix, else the last one in the path, else English.

    >>> language_of("manpages-fr-dev", "man/fr/man3/abs.3.gz"), language_of("git-doc", "a/it.txt")
    ('fr', 'en')
    >>> language_of("wordpress-l10n", "admin-zh_CN.mo"), language_of("apache2-doc", "caching.html.ko")
    ('zh', 'ko')
    """
    suffix = _CODE.search(package.removesuffix("-dev"), 1)
    if suffix:
        return suffix[2]
    folders = [
        match[2]
        for match in _CODE.finditer(path)
        # A folder (`/de/`), or part of the name of a catalogue (`-de.mo`) or HTML page.
        if (f"{match[0]}/" in path if match[0][0] == "/" else path.endswith(".mo") or ".html" in path)
    ]
    return folders[-1] if folders else "en"


def is_cjk(text: str) -> bool:
    """Return whether at least a third of the first characters are Han characters or kana."""
    sample = text[:_SAMPLE_CHARS]
    return len(_CJK.findall(sample)) * 3 >= len(sample)


class _TextParser(HTMLParser):
    """Collect visible text: one line for each block element, with white space kept inside <pre>."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._n_hidden = 0
        self._n_pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._n_hidden += tag in _HIDDEN
        self._n_pre += tag == "pre"
        self.handle_startendtag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        self._n_hidden -= tag in _HIDDEN and self._n_hidden > 0
        self._n_pre -= tag == "pre" and self._n_pre > 0
        self.handle_startendtag(tag, [])  # the line break

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs  # <script/> hides nothing
        if tag not in _INLINE:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._n_hidden:
            self.parts.append(data if self._n_pre else _SPACES.sub(" ", data))


def _html(data: bytes) -> str:
    parser = _TextParser()
    parser.feed(decode(data))
    parser.close()
    return "".join(parser.parts)


def _catalogue(data: bytes) -> str:
    """Read a .mo file's translations, one a line. Format: gettext manual, "The Format of GNU MO Files"."""
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    _, _, n_strings, _, table_at = struct.unpack_from(f"{order}5I", data)
    texts = []
    for index in range(1, n_strings):  # the first is the header
        n_bytes, start = struct.unpack_from(f"{order}2I", data, table_at + 8 * index)
        texts.append(decode(data[start : start + n_bytes]).replace("\0", "\n"))
    return "\n".join(texts)


def _man(data: bytes) -> str:
    r"""Drop roff markup: `.SH NAME` becomes `NAME`, `\fBls\fR \-l` becomes `ls -l`."""
    kept = []
    for line in decode(data).splitlines():
        if line.startswith((".", "'")):
            title = next((macro for macro in _MAN_TITLES if line.startswith(macro)), None)
            line = line[len(title) :].replace('"', "") if title else ""
        kept.append(_MAN_ESCAPE.sub("", line).replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\"))
    return "\n".join(filter(None, kept))


_READERS: dict[str, Callable[[bytes], str]] = {
    "html": _html,
    "xml": _html,
    "mo": _catalogue,
    "man": _man,
    "plain": decode,
}
