"""Real text in some forty languages from Debian's documentation packages. Needs apt, but not root.

Packages are fetched with `apt-get download` and unpacked into a temporary folder; nothing is installed. Each
non-blank line is kept only once over all packages, because menus, licences and untranslated paragraphs repeat
by the thousand. The result is text.txt, the documents one after another; documents.tsv, their byte ranges;
and manifest.json, the packages and what each contributed.
"""

import json
import random
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.extract import drop_seen_lines, extract_text, text_format
from benchmarks.languages import is_cjk, language_of
from nanogpt_compat.errors import InputError

RECIPE = 1  # raise it when the text would come out differently
_MIN_DOCUMENT_BYTES = 200

# English first, so that the untranslated lines of translations count as English. A package that this release
# of Debian does not have is skipped, and listed in the manifest.
_LIBREOFFICE_HELP = (
    "en-us de fr ru zh-cn zh-tw ja ko hi km dz el es it pt pt-br "
    "pl cs hu tr vi id nl sv da fi et eu ca gl sl om"
)
_LIBREOFFICE_UI = (
    "ar th he fa hi bn ta te ka am kn ml mr gu pa-in ne si uk bg sr mk kk ug uz vi is lt lv ro hr"
)
_MANUALS = "de es fr it ja nl pl pt-br ru uk zh cs da fi hu ro sr sv tr vi"
PACKAGES = (
    *(
        "linux-doc-6.1",
        "openjdk-17-doc",
        "python3.11-doc",
        "postgresql-doc-15",
        "perl-doc",
        "git-doc",
        "llvm-19-doc",
    ),
    *(
        "cppreference-doc-en-html",
        "nodejs-doc",
        "debian-handbook",
        "installation-guide-amd64",
        "gnome-user-docs",
    ),
    *("manpages", "manpages-dev", "apache2-doc", "gnucash-docs", "harden-doc", "scilab-doc"),
    *(f"libreoffice-help-{code}" for code in _LIBREOFFICE_HELP.split()),
    *(f"libreoffice-l10n-{code}" for code in _LIBREOFFICE_UI.split()),
    *(f"manpages-{code}" for code in _MANUALS.split()),
    *(f"manpages-{code}-dev" for code in ("de", "es", "fr", "ja", "pl", "ru")),
    *(
        f"debian-reference-{code}"
        for code in ("en", "de", "es", "fr", "id", "it", "ja", "pt", "zh-cn", "zh-tw")
    ),
    *(f"aptitude-doc-{code}" for code in ("en", "cs", "es", "fi", "fr", "it", "ja", "nl", "ru")),
    *(f"maint-guide-{code}" for code in ("ca", "de", "es", "fr", "it", "ja", "ru", "vi", "zh-cn", "zh-tw")),
    *(
        "developers-reference",
        "developers-reference-de",
        "developers-reference-fr",
        "developers-reference-ja",
    ),
    *(
        "developers-reference-ru",
        "scilab-doc-fr",
        "scilab-doc-ja",
        "scilab-doc-pt-br",
        "kicad-doc-ja",
        "kicad-doc-zh",
    ),
    *("lilypond-doc-html-de", "lilypond-doc-html-fr", "lilypond-doc-html-ja", "lilypond-doc-html-es"),
    *("wordpress-l10n", "vlc-l10n", "cinnamon-l10n"),
)


@dataclass(frozen=True, slots=True)
class Span:
    """A document's place in text.txt: bytes `[start, end)`."""

    start: int
    end: int
    language: str
    is_cjk: bool


@dataclass(frozen=True, slots=True)
class PackageYield:
    """What one package contributed; `version` is None if apt does not have the package."""

    name: str
    version: str | None
    n_documents: int = 0
    n_bytes: int = 0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RealText:
    """The folder with the finished text."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of the folder, and of the folder for corpora made from this text."""
        return "debian"

    @property
    def fingerprint(self) -> str:
        """A string that changes whenever the text may have changed."""
        manifest = json.loads((self.folder / "manifest.json").read_text())
        return f"debian {manifest['recipe']} {manifest['n_bytes']} {manifest['n_documents']}"

    def documents(self, seed: int, *, only: str = "") -> Iterator[str]:
        """Yield every document once, in an order drawn from `seed`, so that languages mix."""
        wanted = {
            "": lambda _: True,
            "cjk": lambda span: span.is_cjk,
            "en": lambda span: span.language == "en",
        }
        spans = list(filter(wanted[only], self._spans()))
        random.Random(seed).shuffle(spans)
        with (self.folder / "text.txt").open("rb") as file:
            for span in spans:
                file.seek(span.start)
                yield file.read(span.end - span.start).decode()

    def _spans(self) -> Iterator[Span]:
        with (self.folder / "documents.tsv").open() as file:
            for line in file:
                start, end, language, cjk = line.split()
                yield Span(int(start), int(end), language, cjk == "1")


def build_real_text(folder: Path) -> RealText:
    """Download, unpack and clean all packages, unless `folder` holds the result of this recipe already.

    Takes 5 to 10 minutes on one core, and about 400 MB of memory for a hash of every line.

    Raises:
        InputError: there is no apt here, or it can download none of the packages.
    """
    manifest = folder / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_text())["recipe"] == RECIPE:
        return RealText(folder)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InputError("real text comes from Debian packages, and apt-get is missing; use --text builtin")
    folder.mkdir(parents=True, exist_ok=True)
    yields, languages = _write_text(folder)
    n_bytes = sum(item.n_bytes for item in yields)
    if not n_bytes:
        raise InputError(
            "apt-get could download none of the packages; run `apt-get update` first, or use --text builtin"
        )
    record = {
        "recipe": RECIPE,
        "n_bytes": n_bytes,
        "n_documents": sum(item.n_documents for item in yields),
        "language_bytes": dict(languages.most_common()),
        "missing": [item.name for item in yields if item.version is None],
        "packages": [asdict(item) for item in yields if item.version is not None],
    }
    manifest.write_text(json.dumps(record, indent=1) + "\n")  # last, so that a stopped build is made again
    return RealText(folder)


def _write_text(folder: Path) -> tuple[list[PackageYield], Counter[str]]:
    """Write text.txt and documents.tsv; return what each package contributed, and bytes per language."""
    yields = []
    languages: Counter[str] = Counter()
    seen: set[int] = set()
    with (folder / "text.txt").open("wb") as text_file, (folder / "documents.tsv").open("w") as index:
        for package in PACKAGES:
            started, first_at, n_documents, version = time.monotonic(), text_file.tell(), 0, None
            with tempfile.TemporaryDirectory(dir=folder, prefix="unpack-") as scratch:
                version = _unpack(package, Path(scratch))
                for path, text in _documents(Path(scratch), seen):
                    language, start = language_of(package, path), text_file.tell()
                    text_file.write(text.encode())
                    index.write(f"{start}\t{text_file.tell()}\t{language}\t{is_cjk(text):d}\n")
                    languages[language] += text_file.tell() - start
                    n_documents += 1
            n_bytes = text_file.tell() - first_at
            yields.append(
                PackageYield(package, version, n_documents, n_bytes, round(time.monotonic() - started, 1))
            )
    return yields, languages


def _unpack(package: str, scratch: Path) -> str | None:
    """Download a package and unpack it below `scratch`; return its version, or None if apt has none."""
    scratch.chmod(0o755)  # apt runs as a user of its own, who must be able to enter
    if subprocess.run(["apt-get", "download", "-qq", package], cwd=scratch, capture_output=True).returncode:
        return None
    archive = next(scratch.glob("*.deb"))
    subprocess.run(["dpkg-deb", "-x", archive, scratch / "tree"], check=True)
    archive.unlink()
    for jar in list((scratch / "tree").rglob("*.jar")):  # Scilab keeps its help there
        with zipfile.ZipFile(jar) as members:
            members.extractall(jar.with_suffix(".unpacked"))
    return archive.name.split("_")[1].replace("%3a", ":")


def _documents(scratch: Path, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of each text file below `scratch`, without lines in `seen`, which is updated."""
    tree = scratch / "tree"
    for file in _members(tree):
        text = drop_seen_lines(extract_text(file.name, file.read_bytes()), seen)
        if len(text.encode()) >= _MIN_DOCUMENT_BYTES:
            yield str(file.relative_to(tree)), text


def _members(tree: Path) -> list[Path]:
    """Return all files with text below `tree`, sorted, so that the order is always the same.

    If a package has HTML, its plain text is skipped: that is a second rendering of the same documents.
    """
    found = [file for file in sorted(tree.rglob("*")) if file.is_file() and not file.is_symlink()]
    formats = {file: text_format(file.name) for file in found if not _is_no_prose(file)}
    dropped = {None, "plain"} if "html" in formats.values() else {None}
    return [file for file, kind in formats.items() if kind not in dropped]


def _is_no_prose(file: Path) -> bool:
    return "_sources" in file.parts or file.name.lower().startswith(("changelog", "changes"))
