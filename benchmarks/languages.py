"""Guess a document's language from its package and path; recognise Chinese and Japanese characters."""

import re

_CODES = (
    "am ar as ast bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fr ga gl gu he hi hr hu id is it "
    "ja ka kk km kn ko ku lo lt lv mk ml mr my nb ne nl nn oc om or pa pl pt ro ru si sk sl sq sr sv ta te "
    "th tr ug uk ur uz vi zh"
)
_CODE = re.compile(rf"(?:^|[-./_])(({'|'.join(_CODES.split())})(?:[-_@][A-Za-z]{{2,5}})?)(?=$|[-./])")
_CJK = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_SAMPLE_CHARS = 4000


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
    folders = [match[2] for match in _CODE.finditer(path) if _stands_for_language(match[0], path)]
    return folders[-1] if folders else "en"


def _stands_for_language(match: str, path: str) -> bool:
    """Whether a code is a folder (`/de/`), or part of the name of a catalogue (`-de.mo`) or HTML page."""
    return f"{match}/" in path if match[0] == "/" else path.endswith(".mo") or ".html" in path


def is_cjk(text: str) -> bool:
    """Return whether at least a third of the first characters are Han characters or kana."""
    sample = text[:_SAMPLE_CHARS]
    return len(_CJK.findall(sample)) * 3 >= len(sample)
