"""Artefacts on disk: atomic writes, checksums and the manifest that says what an artefact was made from."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import xxhash

from sensekd.errors import InputError, SenseKDError
from sensekd.provenance import versions

MANIFEST: Final = "manifest.json"
# Bytes that one block checksum covers, and the hexadecimal digits of one.
BLOCK: Final = 1 << 22
_DIGITS: Final = 16
_SEAL: Final = "seal"
# What the system refuses is no damage.
_SYSTEM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM}
# Names of `tempfile` with our prefix: .<name>.<eight characters>, and the folder that was moved aside.
# The name is as short as can be: ".previous" has eight letters too.
_LEFT: Final = re.compile(r"\.(?P<name>.+?)\.[a-z0-9_]{8}(?P<moved>\.previous)?")


def canonical_json(value: object) -> bytes:
    """JSON bytes that are equal for equal values: sorted keys, no white space, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str).encode()


def fingerprint(value: object) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_blocks(path: Path) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as handle:
        while True:
            filled = 0
            while filled < BLOCK and (count := handle.readinto(buffer[filled:])):
                filled += count
            if not filled:
                return
            yield buffer[:filled]


def _digests(path: Path, *, blocks: bool) -> dict[str, Any]:
    """The entry of a file in a manifest; one pass over the file."""
    if not blocks:
        return {"sha256": file_digest(path), "bytes": path.stat().st_size}
    whole, parts = hashlib.sha256(), []
    for block in _read_blocks(path):
        whole.update(block)
        parts.append(xxhash.xxh3_64_hexdigest(block))
    return {"sha256": whole.hexdigest(), "bytes": path.stat().st_size, "xxh3": "".join(parts)}


def _changed(path: Path, entry: Mapping[str, Any]) -> str | None:
    """What of a file is not as its manifest says, or None. With block checksums several times as fast as SHA-256."""
    expected = entry.get("xxh3")
    if expected is None:
        return None if file_digest(path) == entry["sha256"] else "does not match its checksum"
    for number, block in enumerate(_read_blocks(path)):
        if xxhash.xxh3_64_hexdigest(block) != expected[number * _DIGITS : (number + 1) * _DIGITS]:
            first = number * BLOCK
            return f"does not match its checksum between bytes {first} and {first + len(block)}"
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; it replaces `path` whole when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    previous = temporary.with_name(temporary.name + ".previous")
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):
            if file.is_file():
                # Some libraries write files that nobody else may read.
                file.chmod(0o644)
            _sync(file)
        _sync(temporary)
        if path.exists():
            path.rename(previous)
        temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if previous.exists():
            if not path.exists():
                previous.rename(path)
            shutil.rmtree(previous, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with sorted keys, atomically."""
    with atomic_file(path) as temporary:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)
        temporary.write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Manifest:
    """What an artefact is and what it was made from.

    Attributes:
        kind: `lexicon`, `relations`, `sample`, `senses`, `tokens`, …
        format: version of the layout on disk; another number is refused.
        made_from: identities of the inputs (teacher, tokenizer, lexicon, corpus), compared on loading.
        config: the settings that shaped it, seeds included.
        facts: what a reader may want to know without opening it (counts, σ², coverage).
        files: name -> {"sha256", "bytes"}, and "xxh3" where the file has block checksums: 16 digits per 4 MiB.
        versions: libraries of the build; informative, never compared.
    """

    kind: str
    format: int
    made_from: Mapping[str, Any]
    config: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Identity of the content: two artefacts with the same id hold the same bytes."""
        digests = {name: entry["sha256"] for name, entry in self.files.items()}
        return fingerprint([self.kind, self.format, self.made_from, self.config, digests])


def write_manifest(folder: Path, manifest: Manifest, *, blocks: bool = False) -> Manifest:
    """Checksum every file of `folder`, write `manifest.json` last, and return the manifest as written.

    Args:
        folder: holds the files of the artefact.
        manifest: without `files` and `versions`.
        blocks: also a fast checksum per 4 MiB, so that a large file can be verified at the speed of the disk, and an
            error says where.
    """
    files = {
        str(file.relative_to(folder)): _digests(file, blocks=blocks)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    complete = Manifest(
        manifest.kind, manifest.format, manifest.made_from, manifest.config, manifest.facts, files, versions()
    )
    whole = {**complete.__dict__, "id": complete.id}
    write_json(folder / MANIFEST, {**whole, _SEAL: _seal(whole)})
    return complete


def _seal(tree: Mapping[str, Any]) -> str:
    """Checksum of everything else that a manifest says."""
    return fingerprint({name: value for name, value in tree.items() if name != _SEAL})


def _parsed(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        ValueError, KeyError, TypeError: not a manifest, or not as it was written.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    if raw.get(_SEAL, seal := _seal(raw)) != seal:
        raise ValueError("it does not match its own checksum")
    manifest = Manifest(**{name: raw[name] for name in Manifest.__dataclass_fields__})
    if not all(isinstance(each, dict) for each in (manifest.made_from, manifest.config, manifest.facts)):
        raise TypeError("made_from, config and facts are mappings")
    for name, entry in manifest.files.items():
        # What an artefact names lies inside it, wherever the artefact came from.
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"the file {name!r} lies outside")
        str(entry["sha256"]), int(entry["bytes"])
    return manifest


def read_manifest(folder: Path, kind: str, format: int, *, verify: bool = False) -> Manifest:
    """Read and check the manifest of an artefact.

    Args:
        folder: the artefact.
        kind: what the caller expects it to be.
        format: the layout version that this code reads.
        verify: compare checksums (of blocks where there are any, else SHA-256), not only sizes.

    Raises:
        InputError: missing, unreadable, of another kind or format, or with files cut short or changed.
    """
    path = folder / MANIFEST
    rebuild = f"build it again, or give the folder of another {kind} artefact"
    if not path.is_file():
        raise InputError(f"no {kind} artefact at {folder}", f"a folder with {MANIFEST}", rebuild)
    try:
        manifest = _parsed(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", "the manifest as it was written", rebuild) from error
    if (manifest.kind, manifest.format) != (kind, format):
        found = f"{folder} holds {manifest.kind!r} in format {manifest.format}"
        raise InputError(found, f"{kind!r} in format {format}", rebuild)
    for name, entry in manifest.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            raise InputError(f"{file} has {size} bytes", f"{entry['bytes']} as its manifest says", rebuild)
        if verify and (wrong := _changed(file, entry)):
            raise InputError(f"{file} {wrong}", "the bytes that were written", rebuild)
    return manifest


def intact(folder: Path) -> bool:
    """Whether every file that the manifest names is there in its full size."""
    return _holds(folder, lambda file, entry: file.stat().st_size == entry["bytes"])


def sound(folder: Path) -> bool:
    """Whether every file that the manifest names matches its checksum; reads all of them."""
    return _holds(folder, lambda file, entry: _changed(file, entry) is None)


def _holds(folder: Path, check: Callable[[Path, Mapping[str, Any]], bool]) -> bool:
    try:
        return all(check(folder / name, entry) for name, entry in _parsed(folder / MANIFEST).files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever a library says of a damaged file becomes one error.

    Raises:
        InputError: the block raised anything that a damaged file may cause.
    """
    try:
        yield
    except Exception as error:  # Libraries have their own types for it, and some leave KeyError or IndexError.
        if isinstance(error, SenseKDError) or (isinstance(error, OSError) and error.errno in _SYSTEM):
            raise
        reason = (str(error).splitlines() or [""])[0]
        found = f"{path} cannot be read: {type(error).__name__}: {reason}"
        raise InputError(found, "the bytes that were written", "build it again") from error


def sweep(folder: Path) -> None:
    """Clear away what a killed process left of atomic writes in `folder`, restoring what it had moved aside."""
    for rest in sorted(folder.glob(".*")):
        match = _LEFT.fullmatch(rest.name)
        if match is None:
            continue
        target = folder / match["name"]
        if match["moved"] and not target.exists():
            rest.rename(target)
        elif rest.is_dir():
            shutil.rmtree(rest)
        else:
            rest.unlink()


def check_made_from(manifest: Manifest, expected: Mapping[str, Any], *, command: str) -> None:
    """Refuse an artefact that was made from anything else than `expected`, naming both sides.

    Raises:
        InputError: a key of `expected` differs in the manifest.
    """
    for key, wanted in expected.items():
        found = manifest.made_from.get(key)
        if found != wanted:
            raise InputError(
                f"this {manifest.kind} artefact was made from {key} {found}",
                f"{key} {wanted}",
                f"rebuild it: {command}",
            )
