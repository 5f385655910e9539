"""Opens the Yelp Open Dataset in every form it comes in: a folder, the downloaded zips, the tars inside or alone.

Archives are read as streams. The three JSON files are copied out of them; of the photos only those asked for are read.
"""

import errno
import lzma
import os
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from datamodules.engine import Engine
from datamodules.files import CHUNK, SourceFile
from datamodules.label_file import GivenLabels
from datamodules.photos import LARGEST, Given
from datamodules.rules import Columns
from datamodules.yelp import Tables, read_tables
from mmprofile.errors import UserError
from mmprofile.profile.schema import Schema
from mmprofile.remote import Mirror, RemoteFolder

ROLES = ("business", "review", "photos")
NAMES = {
    "business": ("yelp_academic_dataset_business.json", "business.json"),
    "review": ("yelp_academic_dataset_review.json", "review.json"),
    "photos": ("photos.json", "yelp_academic_dataset_photo.json", "photo.json"),
}
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, LookupError,
    NotImplementedError, RuntimeError, struct.error, OverflowError, TypeError,
)  # fmt: skip
"""What the archive readers raise for files that are damaged, encrypted or of a kind that they do not know."""
LARGEST_RATIO, SMALL_ARCHIVE = 100, 100_000_000
"""What is in an archive may take so many times its size, and so many bytes; Yelp's JSON takes 3 times."""
LONGEST_NAME = 100_000
_NAMES = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
"""Members of a tar that hold names and the like of the next one."""
_PHOTO = re.compile(r"(?:^|/)photos/([^/]+)\.jpg$")


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive we read."""
    return path.name.lower().endswith(ARCHIVES)


class RawYelp:
    """The raw files of one Yelp-like data set.

    Args:
        paths: a folder or an archive, or several; a text is a URL.
        photos: whether photos are read; without them the JSON files are enough.

    Raises:
        UserError: a path is not there, or is neither a folder nor an archive.
    """

    def __init__(self, paths: Sequence[Path | str], photos: bool = True) -> None:
        self.paths = paths
        self._roles, self._with_photos = [role for role in ROLES if photos or role != "photos"], photos
        self._files: dict[str, Path] = {}
        self._photo_folders: list[Path | RemoteFolder] = []
        self._archives: list[Path] = []
        for place in paths:
            path = place if isinstance(place, Path) else self._copy_of(place)
            if not path.exists():
                raise UserError(f"raw data: {path} does not exist: check data.prepare.source.path")
            if path.is_dir():
                self._look_into(path)
            elif is_archive(path):
                self._archives.append(path)
            else:
                raise UserError(f"raw data: {path} is neither a folder nor one of {', '.join(ARCHIVES)}")

    def _copy_of(self, url: str) -> Path:
        """Return a copy of what lies at a URL, but for photos, which stay there."""
        path = Mirror(url, without="photos").fetch()
        if self._with_photos and (stored := RemoteFolder.of(f"{url.rstrip('/')}/photos")).stamps:
            self._photo_folders.append(stored)
        return path

    def _look_into(self, folder: Path) -> None:
        """Find JSON files and photo folders in a folder and two levels down; archives where these are not complete."""
        levels = [folder, *_subfolders(folder)]
        levels += [below for level in levels[1:] if level.name != "photos" for below in _subfolders(level)]
        for role in self._roles:
            candidates = [level / name for name in NAMES[role] for level in levels]
            file = next((path for path in candidates if path.is_file()), None)
            if file is not None:
                self._files.setdefault(role, file)
        if self._with_photos:
            self._photo_folders += [level for level in levels if level.name == "photos"]
        if set(self._files) != set(self._roles) or (self._with_photos and not self._photo_folders):
            self._archives += sorted(
                path for level in levels for path in level.iterdir() if path.is_file() and is_archive(path)
            )

    @property
    def sources(self) -> list[SourceFile]:
        """Return the files of this data set (archives, or the JSON files of a folder), by name."""
        return [
            SourceFile.of(path) for path in sorted({*self._files.values(), *self._archives}, key=lambda path: path.name)
        ]

    def stamps(self) -> list[Any]:
        """Return the sizes and times of the sources, and the numbers of files in the photo folders."""
        folders = self._photo_folders
        counts = [len(folder.stamps if isinstance(folder, RemoteFolder) else os.listdir(folder)) for folder in folders]
        return [*(source.stamp for source in self.sources), counts]

    @property
    def has_photos(self) -> bool:
        """Return whether photos are read; they must be there then."""
        return self._with_photos

    def check(self) -> None:
        """Check that no file is missing, as far as this can be seen without reading archives.

        Raises:
            UserError: one is missing.
        """
        if not self._archives:
            self.json_files(Path())

    def json_files(self, work: Path) -> dict[str, Path]:
        """Return the JSON files by role, copied to ``work`` when they are inside an archive.

        Raises:
            UserError: one is missing (says which names were looked for), or an archive is broken.
        """
        missing = set(self._roles) - set(self._files)
        has_photos = bool(self._photo_folders) or not self._with_photos
        for archive in self._archives if missing or not has_photos else ():
            for name, file in walk_archive(archive):
                role = _role(name)
                has_photos = has_photos or _PHOTO.search(name) is not None
                if role in missing:
                    target = work / f"{role}.json"
                    with target.open("wb") as copy:
                        _read_checked(archive, name, lambda file=file, copy=copy: shutil.copyfileobj(file, copy, CHUNK))
                    self._files[role] = target
                    missing.discard(role)
        if missing or not has_photos:
            wanted = [" or ".join(NAMES[role]) for role in self._roles if role in missing]
            if not has_photos:
                wanted.append("a folder photos/ with <photo_id>.jpg")
            where = ", ".join(str(path) for path in self.paths)
            without = ", or do without photos: photos=none" if missing <= {"photos"} else ""
            raise UserError(
                f"raw data: not complete in {where}: looked for {'; '.join(wanted)}: check data.prepare.source.path{without}"
            )
        return dict(self._files)

    def tables(self, engine: Engine, work: Path, columns: Columns) -> Tables:
        """Return the raw files as tables, with the columns that the label rules read.

        Raises:
            UserError: a file is missing, broken, or has more than 1 % malformed lines.
        """
        return read_tables(engine, self.json_files(work), columns)

    def labels(self, schema: Schema, people: set[str]) -> GivenLabels:
        """Return no labels: all are derived by rules."""
        return GivenLabels()

    def where(self) -> str:
        """Return where photos are looked for, for an error message."""
        return ", ".join(str(path) for path in [*self._photo_folders, *self._archives])

    def photos(self, ids: set[str]) -> Iterator[Given]:
        """Yield the wanted photos that are there: id and place, or id and bytes from an archive.

        Raises:
            UserError: an archive is broken.
        """
        left = {photo_id for photo_id in ids if re.fullmatch(r"[^/\\\0]+", photo_id)}
        for folder in self._photo_folders:
            for photo_id in sorted(left):
                name = f"{photo_id}.jpg"
                path = folder / name
                if name in folder.stamps if isinstance(folder, RemoteFolder) else (folder / name).is_file():
                    left.discard(photo_id)
                    yield photo_id, path
        for archive in self._archives if left else ():
            for name, file in walk_archive(archive):
                match = _PHOTO.search(name)
                if match and match[1] in left:
                    left.discard(match[1])
                    yield match[1], _read_checked(archive, name, lambda file=file: file.read(LARGEST + 1))


def _subfolders(folder: Path) -> list[Path]:
    # What a photo is, its entry says: asking for each of 200,000 would take seconds.
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.name != "__MACOSX" and entry.is_dir())


def _role(name: str) -> str | None:
    base = name.rsplit("/", 1)[-1].lower()
    return next((role for role in ROLES if base in NAMES[role]), None)


def _skipped(name: str) -> bool:
    return "__MACOSX" in name.split("/") or name.rsplit("/", 1)[-1].startswith("._")


def _broken(archive: Path, name: str, error: BaseException) -> UserError:
    inside = f" at {name}" if name else ""
    return UserError(f"raw data: archive {archive} is truncated or damaged{inside} ({error}): download it again")


def _read_checked(archive: Path, name: str, read: Any) -> Any:
    try:
        return read()
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the archive
        raise _broken(archive, name, error) from error


def walk_archive(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield names and open files of an archive's members, those of tars inside a zip included, read as a stream.

    Each file must be read before the next one is asked for.

    Raises:
        UserError: the archive is truncated or damaged.
    """
    room = _Room(archive)
    if archive.name.lower().endswith(".zip"):
        try:
            with zipfile.ZipFile(archive) as opened:
                members = [info for info in opened.infolist() if not info.is_dir() and not _skipped(info.filename)]
        except _BROKEN as error:
            raise _broken(archive, "", error) from error
        except OSError as error:
            raise (_broken(archive, "", error) if error.errno in (None, errno.EINVAL) else error) from error
        room.take(sum(info.file_size for info in members))
        with zipfile.ZipFile(archive) as opened:
            for info in members:
                with _read_checked(archive, info.filename, lambda info=info: opened.open(info)) as file:
                    if is_archive(Path(info.filename)):
                        yield from _walk_tar(archive, file, room)
                    else:
                        yield info.filename, file
    else:
        with archive.open("rb") as file:
            yield from _walk_tar(archive, file, room)


class _Room:
    """How much an archive may still expand to: a small file can stand for more than any disk or memory holds."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.left = archive, max(SMALL_ARCHIVE, LARGEST_RATIO * archive.stat().st_size)

    def take(self, size: int) -> None:
        """Take the bytes of members.

        Raises:
            UserError: they are too many.
        """
        self.left -= size
        if self.left < 0:
            raise UserError(
                f"raw data: archive {self.archive} expands to more than {LARGEST_RATIO} times its size, which no download of "
                "Yelp does: if you trust it, unpack it and give the folder"
            )


class _PlainInfo(tarfile.TarInfo):
    """A member of a tar. Its names and the map of a sparse file are read into memory: only short names are, and no maps."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type == tarfile.GNUTYPE_SPARSE or (self.type in _NAMES and self.size > LONGEST_NAME):
            raise tarfile.ReadError("a sparse file, or a name that is too long")
        return super()._proc_member(tar)  # type: ignore[misc]

    def _proc_gnusparse_10(self, *_: Any) -> None:
        raise tarfile.ReadError("a sparse file")


def _walk_tar(archive: Path, file: IO[bytes], room: _Room) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the members of a tar, compressed or not, from a file that is only read forwards."""
    name = ""
    tar = _read_checked(archive, name, lambda: tarfile.open(fileobj=file, mode="r|*", tarinfo=_PlainInfo))  # noqa: SIM115
    with tar:
        while True:
            member = _read_checked(archive, name, tar.next)
            if member is None:
                return
            name = member.name
            room.take(member.size)
            if member.isfile() and not _skipped(name):
                content = tar.extractfile(member)
                assert content is not None
                yield name, content
            tar.members = []  # keep no list of 200,000 names
