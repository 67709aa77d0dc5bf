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
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.extract import drop_seen_lines, extract_text, is_cjk, language_of, text_format
from benchmarks.kinds import Text
from nanogpt_compat.errors import InputError

RECIPE = 1  # raise it when the text would come out differently
_MIN_DOCUMENT_BYTES = 200

# English first, so that the untranslated lines of translations count as English. A package that this release
# of Debian does not have is skipped, and listed in the manifest.
PACKAGES = [
    name.format(part)
    for name, parts in (
        ("{}", "linux-doc-6.1 openjdk-17-doc python3.11-doc postgresql-doc-15 perl-doc git-doc llvm-19-doc"),
        (
            "{}",
            "cppreference-doc-en-html nodejs-doc debian-handbook installation-guide-amd64 gnome-user-docs",
        ),
        ("{}", "manpages manpages-dev apache2-doc gnucash-docs harden-doc scilab-doc"),
        ("libreoffice-help-{}", "en-us de fr ru zh-cn zh-tw ja ko hi km dz el es it pt pt-br"),
        ("libreoffice-help-{}", "pl cs hu tr vi id nl sv da fi et eu ca gl sl om"),
        ("libreoffice-l10n-{}", "ar th he fa hi bn ta te ka am kn ml mr gu pa-in ne si uk bg sr mk kk ug uz"),
        ("libreoffice-l10n-{}", "vi is lt lv ro hr"),
        ("manpages-{}", "de es fr it ja nl pl pt-br ru uk zh cs da fi hu ro sr sv tr vi"),
        ("manpages-{}-dev", "de es fr ja pl ru"),
        ("debian-reference-{}", "en de es fr id it ja pt zh-cn zh-tw"),
        ("aptitude-doc-{}", "en cs es fi fr it ja nl ru"),
        ("maint-guide-{}", "ca de es fr it ja ru vi zh-cn zh-tw"),
        ("developers-reference{}", " -de -fr -ja -ru"),
        ("{}", "scilab-doc-fr scilab-doc-ja scilab-doc-pt-br kicad-doc-ja kicad-doc-zh"),
        ("lilypond-doc-html-{}", "de fr ja es"),
        ("{}-l10n", "wordpress vlc cinnamon"),
    )
    for part in parts.split(" ")
]


def debian_text(folder: Path) -> Text:
    """Download, unpack and clean all packages, unless `folder` holds the result of this recipe already.

    Takes 5 to 10 minutes on one core, and about 400 MB of memory for a hash of every line.

    Raises:
        InputError: there is no apt here, or it can download none of the packages.
    """
    path = folder / "manifest.json"
    if not path.exists() or json.loads(path.read_text())["recipe"] != RECIPE:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise InputError(
                "real text comes from Debian packages, and apt-get is missing; use --text builtin"
            )
        folder.mkdir(parents=True, exist_ok=True)
        built = _build(folder)
        if not built["n_bytes"]:
            raise InputError(
                "apt-get could download none of the packages; run `apt-get update` first, "
                "or use --text builtin"
            )
        path.write_text(json.dumps(built, indent=1) + "\n")  # last, so that a stopped build is made again
    manifest = json.loads(path.read_text())
    fingerprint = f"debian {manifest['recipe']} {manifest['n_bytes']} {manifest['n_documents']}"
    return Text("debian", fingerprint, partial(_documents, folder))


def _documents(folder: Path, seed: int, only: str) -> Iterator[str]:
    places = []
    with (folder / "documents.tsv").open() as index:
        for line in index:
            start, end, language, cjk = line.split()
            if only in ("", language) or (only == "cjk" and cjk == "1"):
                places.append((int(start), int(end)))
    random.Random(seed).shuffle(places)  # so that languages mix
    with (folder / "text.txt").open("rb") as file:
        for first, last in places:
            file.seek(first)
            yield file.read(last - first).decode()


def _build(folder: Path) -> dict[str, Any]:
    """Write text.txt and documents.tsv; return the manifest."""
    packages, missing = [], []
    languages: Counter[str] = Counter()
    seen: set[int] = set()
    with (folder / "text.txt").open("wb") as text_file, (folder / "documents.tsv").open("w") as index:
        for package in PACKAGES:
            started, first_at, n_documents = time.monotonic(), text_file.tell(), 0
            with tempfile.TemporaryDirectory(dir=folder, prefix="unpack-") as scratch:
                version = _unpack(package, Path(scratch))
                for path, text in _extract_all(Path(scratch, "tree"), seen):
                    language, start = language_of(package, path), text_file.tell()
                    text_file.write(text.encode())
                    index.write(f"{start}\t{text_file.tell()}\t{language}\t{is_cjk(text):d}\n")
                    languages[language] += text_file.tell() - start
                    n_documents += 1
            if version is None:
                missing.append(package)
                continue
            counts = {"n_documents": n_documents, "n_bytes": text_file.tell() - first_at}
            wall_s = round(time.monotonic() - started, 1)
            packages.append({"name": package, "version": version, **counts, "wall_s": wall_s})
        n_bytes = text_file.tell()
    return {
        "recipe": RECIPE,
        "n_bytes": n_bytes,
        "n_documents": sum(one["n_documents"] for one in packages),
        "language_bytes": dict(languages.most_common()),
        "missing": missing,
        "packages": packages,
    }


def _unpack(package: str, scratch: Path) -> str | None:
    """Download a package and unpack it into `scratch`/tree; return its version, or None if apt has none."""
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


def _extract_all(tree: Path, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of each text file below `tree`, sorted, without lines in `seen`, which is updated.

    If a package has HTML, its plain text is skipped: that is a second rendering of the same documents.
    """
    formats = {
        file: text_format(file.name)
        for file in sorted(tree.rglob("*"))
        if file.is_file() and not file.is_symlink()
        if "_sources" not in file.parts and not file.name.lower().startswith(("changelog", "changes"))
    }
    dropped = {None, "plain"} if "html" in formats.values() else {None}
    for file in (file for file, kind in formats.items() if kind not in dropped):
        text = drop_seen_lines(extract_text(file.name, file.read_bytes()), seen)
        if len(text.encode()) >= _MIN_DOCUMENT_BYTES:
            yield str(file.relative_to(tree)), text
