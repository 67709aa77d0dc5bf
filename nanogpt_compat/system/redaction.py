r"""Keep the secrets that this process knows out of every text that leaves it.

Addresses of inputs hold passwords and signatures, the environment holds keys, and any library may quote them
in its errors. `learn` records them. `redact` hides them in text for people, and `redact_record` in JSON.
Addresses are also recognised by their form. That covers addresses that the process has never seen, such as a
signed one that a server redirects to.

`display.CalmStream` redacts screens, logs and warnings; `filesystem.write_json` and `journal.format_line`
redact files.
"""

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "..."

_MIN_CHARS = 4  # hiding a password of one to three characters would blank half of a text
_MIN_RECORD_CHARS = 6  # in JSON, where `train` in `train.bin` must stay
_MIN_USER_CHARS = 8  # an access key has as many; `me` is no secret
_MIN_OPAQUE_CHARS = 16  # shorter values in a query are numbers and words
_MIN_VARIABLE_CHARS = 8

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]+://)")  # zip://a.txt::https://host/b.zip
_IN_TEXT = re.compile(_SCHEME.pattern + r"[^\s'\"]*[^\s'\".,;:)\]]")
# `user:password@` or `token@`. A password may hold `/`, as S3's keys do; `host:80/a@b` has no password.
_USER = re.compile(r"(?<=://)(?:[^/?#@:\[\]]+:(?!\d*(?:[/?#]|$))[^@]*@(?:[^/?#@]*@)*|[^/?#]*@)")
_WEB_QUERY = re.compile(r"^(https?://[^?#]*)[?#](.*)", re.IGNORECASE | re.DOTALL)
_OTHER_QUERY = re.compile(r"^([^?]*)\?([^?*/=]+=.*)", re.DOTALL)  # a `?` alone may be part of a glob
_CONTAINER = {"abfs", "abfss", "oci", "ocilake", "wasb", "wasbs"}  # abfs://CONTAINER@ACCOUNT/...
_REPOSITORY = {"github"}  # github://ORG:REPOSITORY@BRANCH/...

_SECRET_FIELD = re.compile(
    r"(?:^|[-_.])(?:sig|signature|token|secret|key|credential|pass|password|passwd|pwd|auth|code)$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY|CONNECTION_STRING)$")
_SECRET_PART = re.compile(r"(?:Key|Signature|sig)=([^;&\s]+)")  # in a connection string

_known: set[str] = set()


def hide(address: str) -> str:
    """Return an address without its password and its query.

    >>> hide("https://me:word@host/some/part.txt?signature=abc"), hide("s3://KEY:se/cret@bucket/part-?.txt")
    ('https://...@host/some/part.txt?...', 's3://...@bucket/part-?.txt')
    """
    shown = []
    for one in _CHAIN.split(address):
        if user := user_of(one):
            one = one.replace(f"://{user}@", f"://{HIDDEN}@", 1)
        path, query = split_query(one)
        shown.append(f"{path}?{HIDDEN}" if query else one)
    return "::".join(shown)


def split_query(address: str) -> tuple[str, str]:
    """Split an address into the part before its query, and the query (or fragment).

    >>> split_query("https://host/a?b=c"), split_query("s3://bucket/part-?.txt")
    (('https://host/a', 'b=c'), ('s3://bucket/part-?.txt', ''))
    """
    match = _WEB_QUERY.match(address) or _OTHER_QUERY.match(address)
    return (match[1], match[2]) if match else (address, "")


def user_of(address: str) -> str:
    """Return the part before the `@` of an address; "" if it is no secret."""
    match = _USER.search(address)
    if match is None:
        return ""
    user, scheme = match[0][:-1], address.partition("://")[0].lower()
    is_place = scheme in _REPOSITORY or (scheme in _CONTAINER and ":" not in user)
    return "" if is_place else user


def learn(word: str) -> None:
    """Record the secrets in an address, which may follow an option: `--input=https://...`."""
    match = _SCHEME.search(word)
    if match is None:
        return
    for address in _CHAIN.split(word[match.start() :]):
        path, query = split_query(address)
        user = user_of(address)
        name, colon, password = user.partition(":")
        # The parts that a library may quote: to some, a `/` in `user:password` ends the host.
        found = {password, *re.split(r"[/?#]", password)}
        if colon:
            found |= {user, *re.split(r"[/?#]", user), _basic(user), _basic(unquote(user))}
        if len(name) >= _MIN_USER_CHARS:
            found |= {name, *re.split(r"[/?#]", name)}
        _known.update(one for one in found if len(one) >= _MIN_CHARS)
        found = {query} if len(query) >= _MIN_OPAQUE_CHARS else set()
        for name, _, value in (one.partition("=") for one in re.split("[&;]", query)):
            if len(value) >= (_MIN_CHARS if _SECRET_FIELD.search(name) else _MIN_OPAQUE_CHARS):
                found.add(value)
        _known.update(one for one in found if one not in path)


def learn_all(words: Iterable[str], environment: Mapping[str, str]) -> None:
    """Record the secrets in the words of a command line and in the environment."""
    for word in words:
        learn(word)
    for name, value in environment.items():
        learn(value)  # a proxy with a password, for example
        if len(value) < _MIN_VARIABLE_CHARS or not _SECRET_VARIABLE.search(name) or os.path.exists(value):  # noqa: PTH110 - Path.exists may raise
            continue
        _known.add(value)
        _known.update(one for one in _SECRET_PART.findall(value) if len(one) >= _MIN_VARIABLE_CHARS)


def _basic(user: str) -> str:
    """Return `user:password` as an Authorization header has it."""
    return base64.b64encode(user.encode("utf-8", "surrogateescape")).decode("ascii").rstrip("=")


@lru_cache(maxsize=1)
def _forms(_n_known: int) -> tuple[str, ...]:
    """Return every form that a known secret may have in a text, longest first. `_known` only grows."""
    found = set[str]()
    for secret in _known:
        for plain in {secret, unquote(secret), unquote_plus(secret)}:
            escaped = {quote(plain, safe=""), quote(plain), quote_plus(plain)}
            lower = {re.sub("%..", lambda match: match[0].lower(), one) for one in escaped}
            found |= {plain, *escaped, *lower}
    found |= {form for one in found for form in (repr(one)[1:-1], json.dumps(one)[1:-1])}
    return tuple(sorted((one for one in found if len(one) >= _MIN_CHARS), key=len, reverse=True))


def redact(text: str, *, min_chars: int = _MIN_CHARS) -> str:
    """Hide known secrets in a text for people, and the passwords and queries of addresses."""
    return redact_known(_IN_TEXT.sub(lambda match: hide(match[0]), text), min_chars=min_chars)


def redact_known(text: str, *, min_chars: int = _MIN_CHARS) -> str:
    """Hide only the secrets that this process knows, in a text whose addresses are not its own."""
    for form in _forms(len(_known)):
        if len(form) >= min_chars and form in text:
            text = text.replace(form, HIDDEN)
    return text


def redact_record(record: Any) -> Any:
    """Hide known secrets in a JSON record; names of fields stay.

    A value that equals a known secret stays too. The program stores no secrets, so it is one of its own
    words, such as `spread`, that was also chosen as a password.
    """
    if isinstance(record, str):
        return record if record in _known else redact(record, min_chars=_MIN_RECORD_CHARS)
    if isinstance(record, Mapping):
        return {name: redact_record(value) for name, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [redact_record(value) for value in record]
    return record
