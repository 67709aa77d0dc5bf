"""Interpret errors of servers: whether another try may help, and what to tell the user.

aiohttp, httpx, requests, botocore, gcsfs and azure-core each keep the server's answer in a different place.
None of them is imported here, since most are not installed.
"""

import re
from collections.abc import Iterator
from typing import Literal

from nanogpt_compat.errors import InputError
from nanogpt_compat.input.location import Url
from nanogpt_compat.system.commands import option_of, quote, show, this_command
from nanogpt_compat.system.redaction import redact

Verdict = Literal["missing", "denied", "final", "passing"]

_MAX_SAID_CHARS = 240
_MAX_WISHED_WAIT_S = 60.0
_FORBIDDEN = 403
_KINDS: dict[int, Verdict] = {  # of HTTP statuses; all others are final
    **dict.fromkeys((401, _FORBIDDEN), "denied"),
    **dict.fromkeys((404, 410), "missing"),
    **dict.fromkeys((408, 425, 429, 500, 502, 503, 504), "passing"),
}
_PASSING_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_FINAL_TYPES = (
    *(IsADirectoryError, NotADirectoryError, NotImplementedError, RecursionError, ImportError, MemoryError),
    *(ValueError, TypeError, LookupError, AttributeError),
)
_ACCESS_NAME = re.compile(
    "Credential|Token|ProfileNotFound|SSO|Authenticat|RefreshError|LoginError|GatedRepo"
)
_NETWORK_OF_BOTOCORE = {"HTTPClientError", "ConnectionError", "IncompleteReadError", "MetadataRetrievalError"}

_ACCESS = {
    "http": "a signed address may have expired: get a new one",
    "hf": "check the name, or log in to the Hub with `hf auth login` or HF_TOKEN",
    "s3": "give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, by AWS_PROFILE, or with `aws "
    "configure` or `aws sso login`; a server other than Amazon's needs AWS_ENDPOINT_URL, and a public bucket "
    "FSSPEC_S3_ANON=true",
    "gs": "log in with `gcloud auth application-default login`, or name a key file in "
    "GOOGLE_APPLICATION_CREDENTIALS; a public bucket needs FSSPEC_GS_TOKEN=anon",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or "
    "AZURE_STORAGE_CONNECTION_STRING, or log in with `az login`; a public container needs "
    "AZURE_STORAGE_ANON=true",
}
_PLACE = {
    "s3": "check the name of the bucket, AWS_ENDPOINT_URL (https://HOST:PORT) and AWS_REGION, and that the "
    "credentials have not expired",
    "gs": "check the name of the bucket",
    "az": "check the name of the container, and AZURE_STORAGE_ACCOUNT_NAME",
}

_BY_CODE = {
    "ExpiredToken": "get new credentials, as with `aws sso login`",
    "InvalidObjectState": "restore the object from its archive first",
    "RequestTimeTooSkewed": "set the clock of this machine",
}


def access_hint(url: Url) -> str:
    """Return advice on how to give credentials to such a server."""
    return _ACCESS.get(url.family, "log in as this server asks for")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes: fsspec's HTTP turns every error into FileNotFoundError."""
    while error is not None:
        yield error
        error = error.__cause__


def _answers_in(error: BaseException) -> list[tuple[int, str, str]]:
    """Return the status, code and message of each answer of a server that botocore keeps with an error."""
    responses = (getattr(one, "response", None) for one in chain(error))
    return [
        (
            response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0),
            str(response.get("Error", {}).get("Code", "")),
            str(response.get("Error", {}).get("Message", "")),
        )
        for response in responses
        if isinstance(response, dict)
    ]


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the server's answer if that is an error or a redirect, else None."""
    found: list[object] = [status for status, _, _ in _answers_in(error)]
    for one in chain(error):
        holders = (one, getattr(one, "response", None))
        found += [getattr(holder, name, None) for name in ("status", "status_code") for holder in holders]
        # aiohttp's `code` is no status: it is 400 when a connection breaks off.
        if type(one).__module__.startswith(("gcsfs.", "google.")):
            found.append(getattr(one, "code", None))
        if isinstance(one, OSError) and str(one).startswith("Forbidden: "):  # from gcsfs
            found.append(_FORBIDDEN)
    return next((one for one in found if isinstance(one, int) and 300 <= one < 600), None)


def kind_of(error: BaseException) -> Verdict:
    """Return what kind of error this is; "passing" means that another try may help.

    An unknown error counts as passing: half a minute of tries is better than ending a run of many hours.
    """
    if any(code in _PASSING_CODES for _, code, _ in _answers_in(error)):
        return "passing"
    causes = list(chain(error))
    first, types = causes[-1], [type(one).__name__ for one in causes]
    text, bases = str(first), {kind.__name__ for one in causes for kind in type(one).__mro__}
    if (status := status_of(error)) is not None:
        is_expired = status == 400 and "PermissionError" in bases  # S3's answer to an expired token
        return "denied" if is_expired else _KINDS.get(status, "final")
    if isinstance(first, (FileNotFoundError, StopIteration)):  # StopIteration: from fsspec's FTP
        return "missing"
    if "PermissionError" in bases or any(map(_ACCESS_NAME.search, types)):
        return "denied"
    if isinstance(first, ValueError) and "credential" in text.lower():  # from adlfs
        return "denied"
    if types[-1] == "error_perm":  # from ftplib: 530 Login incorrect
        return "denied" if text.startswith("53") else "final"
    is_of_botocore = "BotoCoreError" in bases and not bases & _NETWORK_OF_BOTOCORE
    return "final" if is_of_botocore or isinstance(first, _FINAL_TYPES) else "passing"


def wished_wait_s(error: BaseException) -> float:
    """Return how many seconds the server asks to wait, at most a minute; 0 if it does not ask."""
    for one in chain(error):
        headers = getattr(one, "headers", None) or getattr(getattr(one, "response", None), "headers", None)
        asked = str((headers or {}).get("Retry-After", ""))
        if asked.isdecimal():
            return min(_MAX_WISHED_WAIT_S, float(asked))
    return 0.0


def describe(error: BaseException) -> str:
    """Describe an error in one line, without the secrets of an address."""
    for status, code, message in _answers_in(error):
        if code and not code.isdecimal():
            return _one_line(f"{status} {code}: {message}")
    from http.client import responses  # here: it takes 30 ms

    if (found := status_of(error)) in responses:
        return f"{found} {responses[found]}"
    *_, first = chain(error)
    if isinstance(first, RecursionError):  # botocore was redirected again when it asked for the region
        return "the server redirects every request"
    return _one_line(f"{type(first).__name__}: {first}").removesuffix(":")


def _one_line(text: str) -> str:
    text = redact(" ".join(text.split()))
    return text if len(text) <= _MAX_SAID_CHARS else f"{text[:_MAX_SAID_CHARS]} ..."


def no_parts(url: Url) -> InputError:
    """Return the error for a server whose files cannot be read by ranges."""
    option = option_of(url.address, otherwise="--input")
    command = f"curl -L {quote(url.address)} | {this_command(option, '-', without=[option])}"
    return InputError(
        f"{url}: the server does not report the size of the file, or does not send parts of files; download "
        f"it, or read it as a stream:{show(command)}"
    )


def failure(url: Url, where: str, error: BaseException, *, n_tries: int, has_answered: bool) -> InputError:
    """Return the error that ends the run: what happened, and what to do about it."""
    if isinstance(error, ValueError) and "range" in str(error):
        return no_parts(url)
    said, kind, place = describe(error), kind_of(error), _PLACE.get(url.family, "check the address")
    if kind == "missing":
        endpoint = ", and AWS_ENDPOINT_URL if the server is not Amazon's" if url.family == "s3" else ""
        return InputError(f"{url} not found ({said}); check the address{endpoint}")
    if kind == "denied":
        todos = (_BY_CODE[code] for _, code, _ in _answers_in(error) if code in _BY_CODE)
        advice = next(todos, access_hint(url))
        return InputError(f"{url}: access denied ({said}); {advice}")
    if kind == "final":
        return InputError(f"cannot read {url}{where}: {said}; {place}")
    times = f", {n_tries} times in a row" if n_tries > 1 else ""
    again = "run the same command again when the server answers"
    if not has_answered:
        again = f"{place}, or {again}"
    return InputError(f"cannot read {url}{where}{times}: {said}; {again}")
