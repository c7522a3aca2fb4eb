"""Where results lie: a folder of this machine or of a network file system, or a prefix of an object store (S3).

Everywhere a file is there whole or not at all, and readers see the old one or the new one: a folder's file is written
beside its place, flushed and renamed; an object is put at once. What differs between them is told apart here.

NFS: a new name may be seen on another host only when its client's cache of the folder ends (`acdirmax`, 60 s by
default); what a known name holds is looked up anew each time. S3: rows are seen everywhere at once; credentials and
endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, a profile or the
machine's role) and are never kept.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from raybench.config.folders import made_at
from raybench.errors import ResultsError

if TYPE_CHECKING:
    from upath import UPath

Folder: TypeAlias = "Path | UPath"
"""A path of this machine, or one of an object store, which has the same methods."""
Stamp = tuple[str | int, ...]
"""What tells a file from the one that was in its place before."""

OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""Schemes whose puts are whole or not at all and can refuse to overwrite -> the package that speaks them."""
AT_A_TIME = 16
"""Requests of one reading or removal that are under way together."""
IMPATIENT = {"connect_timeout": 3, "read_timeout": 5, "retries": {"total_max_attempts": 1}}
"""botocore's settings where a person waits for the answer (s); while a sweep runs, its own outlast a short outage."""
CHECK_S = 8.0
PUT_S = 60.0
"""What a put may take, and a second more a MiB: a client waits for ever to be told to go on sending."""


def folder_at(text: str) -> Folder:
    """The folder that `text` names: a path, made absolute, or an address such as s3://bucket/prefix.

    Raises ResultsError for an address that cannot hold results. Whether the place is there is for `check_writable`.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return made_at(text)
    bucket = rest.split("/")[0]
    if "@" in bucket or ":" in bucket:
        raise ResultsError(
            f"{scheme}://…@…: credentials do not belong in the address, which rows and logs show; "
            "give them in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if scheme not in OBJECT_STORES:
        known = ", ".join(f"{name}://" for name in OBJECT_STORES)
        raise ResultsError(f"{text}: results cannot lie there; give a folder, or an address of {known}")
    if not bucket:
        raise ResultsError(f"{text}: a bucket is missing; give {scheme}://BUCKET/PREFIX")
    missing = [package for package in ("upath", OBJECT_STORES[scheme]) if find_spec(package) is None]
    if missing:
        what = '"raybench[s3]"' if scheme == "s3" else f'"raybench[s3]" {OBJECT_STORES[scheme]}'
        raise ResultsError(f"{text}: results on {scheme}:// need a package that is not installed: pip install {what}")
    return _object_path(text)


def _object_path(text: str, **options: Any) -> UPath:
    from upath import UPath

    # Others write there too, so a listing of a moment ago is worth nothing.
    path: UPath = UPath(text, use_listings_cache=False, **options)
    return path


def check_writable(folder: Folder) -> None:
    """Raises ResultsError, within seconds, when nothing could be written, read and removed in `folder`."""
    name = f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    if isinstance(folder, Path):
        write_atomically(folder / name, b"raybench")
        remove([folder / name])
        return
    probe = folder / name
    if str(folder).startswith("s3:"):
        probe = _object_path(str(probe), config_kwargs=IMPATIENT)
        probe.fs.retries = 2
    with _told(folder):
        probe.fs.pipe_file(probe.path, b"raybench", timeout=CHECK_S)
        probe.fs.ls(folder.path)
        probe.fs.cat_file(probe.path)
        probe.fs.rm_file(probe.path)


def write_atomically(path: Folder, content: bytes | memoryview) -> None:
    """The whole content under `path`, or what was there before.

    A file is written beside its place, flushed to the disk and renamed, an object put at once. Makes the folder when it
    is absent. Raises ResultsError (disk full, not writable …) and leaves nothing behind.
    """
    if not isinstance(path, Path):
        with _told(path):
            path.fs.pipe_file(path.path, bytes(content), timeout=_put_s(content))
        return
    _write(path, content, _named)


def _write(path: Path, content: bytes | memoryview, name: Callable[[Path, Path], bool]) -> bool:
    """What `name` says, which gives the file written beside `path` its name. Raises as `write_atomically` does."""
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            _flush_folder(path.parent.parent)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        named = name(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        remove([temporary])
        raise explain(error, path) from error
    except BaseException:
        remove([temporary])
        raise
    return named


def _named(temporary: Path, path: Path) -> bool:
    temporary.replace(path)
    return True


def _named_if_new(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        temporary.unlink()
        return False
    except OSError:  # no hard links here
        return _named(temporary, path)
    temporary.unlink()
    return True


def _put_s(content: bytes | memoryview) -> float:
    return PUT_S + len(content) / 2**20


def create(path: Folder, content: bytes) -> bool:
    """Write what is not there yet; False when there is something of that name. Raises ResultsError.

    On a file system without hard links it is replaced.
    """
    if isinstance(path, Path):
        return _write(path, content, _named_if_new)
    with _told(path):
        try:
            path.fs.pipe_file(path.path, content, mode="create", timeout=_put_s(content))
        except FileExistsError:
            return False
        except OSError as error:
            # Stores other than Amazon's do not say which condition failed; 409: another put came in between.
            answer = getattr(error.__cause__, "response", {})
            code = answer.get("Error", {}).get("Code")
            if code in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                return False
            raise
    return True


def read(path: Folder) -> bytes:
    """A file's content. Raises OSError (FileNotFoundError …), and ResultsError when an object store does not answer."""
    if isinstance(path, Path):
        with os.fdopen(opened(path), "rb") as file:
            return file.read()
    with _told(path, absent_is_told=False):
        content: bytes = path.fs.cat_file(path.path)
        return content


def opened(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """The descriptor of a file, to read. Raises OSError for all else: a pipe would be waited for, for ever."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "a pipe or device, not a file", str(path))


def read_range(path: Folder, start: int, end: int) -> bytes:
    """The bytes of a file from `start` to `end`, as many of them as there are. Raises as `read` does."""
    if not isinstance(path, Path):
        with _told(path, absent_is_told=False):
            content: bytes = path.fs.cat_file(path.path, start=start, end=end)
            return content
    descriptor = opened(path)
    try:
        parts = []
        while start < end and (part := os.pread(descriptor, end - start, start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def read_ranges(path: Folder, size: int, ranges: Iterable[tuple[int, int]]) -> memoryview:
    """A view as long as the file, of which only these ranges (start, end) are read; all else is zeros and no memory.

    What lies beyond the file's end stays zeros too. Raises as `read` does, and ValueError for an empty file.
    """
    view = memoryview(mmap.mmap(-1, size))  # memory that takes no place before it is written to
    wanted = [*_joined(ranges)]
    if not isinstance(path, Path):
        with _told(path, absent_is_told=False):
            found = each(lambda span: path.fs.cat_file(path.path, start=span[0], end=span[1]), wanted)
        for (start, _), content in zip(wanted, found, strict=True):
            view[start : start + len(content)] = content
        return view
    descriptor = opened(path)
    try:
        for start, end in wanted:
            done = start
            while done < end and (count := os.preadv(descriptor, [view[done:end]], done)):
                done += count
    finally:
        os.close(descriptor)
    return view


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges in order, those that touch as one."""
    start = end = 0
    for begin, stop in sorted(ranges):
        if begin > end:
            if start < end:
                yield start, end
            start = begin
        end = max(end, stop)
    if start < end:
        yield start, end


def read_if_there(path: Folder) -> bytes | None:
    """A file's content; none where there is no such file. Raises ResultsError where it is there and cannot be read."""
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        why = error.strerror or str(error)
        raise ResultsError(
            f"{path} cannot be read: {why}; mend it or take it away, then run the same command again"
        ) from error


def local_copy(path: Folder, folder: Path) -> Path:
    """A file's own path; of an object, that of its copy in `folder`, fetched once. Raises OSError, ResultsError."""
    if isinstance(path, Path):
        os.close(opened(path))
        return path
    mark = stamp(path)
    if mark is None:
        raise FileNotFoundError(str(path))
    name = hashlib.sha256(f"{path} {mark}".encode()).hexdigest()[:16]
    copy = folder / f"{name}-{path.name}"
    if not copy.exists():
        write_atomically(copy, read(path))
    return copy


def entries(folder: Folder, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Stamp]:
    """The names in a folder that are `wanted`, in order, each with its stamp; none when the folder is absent.

    Raises ResultsError when the folder is there but cannot be listed.
    """
    try:
        if not isinstance(folder, Path):
            with _told(folder, absent_is_told=False):
                found = {each["name"].rsplit("/", 1)[-1]: each for each in folder.fs.ls(folder.path, detail=True)}
            return {name: _mark(found[name]) for name in sorted(found) if wanted(name)}
        names = sorted(name for name in os.listdir(folder) if wanted(name))  # noqa: PTH208 - thousands of names
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise explain(error, folder) from error
    marks = {name: stamp(folder / name) for name in names}
    return {name: mark for name, mark in marks.items() if mark is not None}


def stamp(path: Folder) -> Stamp | None:
    """What tells this file from others in its place: inode, size, time of change; an object's tag. None: no file."""
    if not isinstance(path, Path):
        try:
            with _told(path, absent_is_told=False):
                return _mark(path.fs.info(path.path))
        except FileNotFoundError:
            return None
    try:
        # Opened, since a client of NFS answers a bare stat from memory. Not blocking, should it be a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:  # gone since the listing
        return None
    except OSError:
        about = path.lstat()
    else:
        about = os.fstat(descriptor)
        os.close(descriptor)
    return about.st_ino, about.st_size, about.st_mtime_ns


def _mark(info: dict[str, Any]) -> Stamp:
    tag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("last_modified")
    return str(tag), info.get("size") or 0


def remove(paths: Iterable[Folder]) -> None:
    """Deletes what can be deleted; what is gone already, or cannot go, does no harm."""
    each(_remove, list(paths))


def _remove(path: Folder) -> None:
    try:
        if isinstance(path, Path):
            path.unlink()
        else:
            with _told(path, absent_is_told=False):
                path.fs.rm_file(path.path)
    except (OSError, ResultsError):
        return


def each(act: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """`act` on each item, some at a time; the results in order."""
    if len(items) < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(min(AT_A_TIME, len(items))) as threads:
        return list(threads.map(act, items))


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told(path: UPath, *, absent_is_told: bool = True) -> Iterator[None]:
    """Whatever an object store's package raises inside becomes a ResultsError in words."""
    try:
        yield
    except FileNotFoundError as error:
        if not absent_is_told:
            raise
        raise ResultsError(
            f"{path} cannot be written: there is no bucket of that name; make it, or choose another with --results"
        ) from error
    except ResultsError:
        raise
    except Exception as error:
        raise _explain_store(error, path) from error


def _explain_store(error: Exception, path: UPath) -> ResultsError:
    """Told by the names of the errors, for each store's package has its own; addresses of endpoints are left out."""
    kind = type(error).__name__
    what = " ".join(str(error).split())[:300] or kind
    if isinstance(error, PermissionError) or "Credentials" in kind:
        return ResultsError(
            f"{path} cannot be used: {what}; check the credentials (for S3 AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or a profile) and the right to list, read, write and delete there"
        )
    if "Timeout" in kind or "Connect" in kind or "Connection" in kind:
        return ResultsError(
            f"{path} cannot be used: the storage does not answer ({kind}); check the network and the endpoint "
            "(for S3 AWS_ENDPOINT_URL), then run the same command again"
        )
    return ResultsError(f"{path} cannot be used: {what}; mend it, or choose another with --results")


def explain(error: OSError, path: Folder) -> ResultsError:
    """The error of the operating system in words that say what to do."""
    why = error.strerror or str(error)
    other = "choose another folder with --results ROOT"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResultsError(
            f"disk full: {path} could not be written ({why}). What was written before is whole; "
            f"free space, or {other}, and run the same command again"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return ResultsError(
            f"{path} cannot be used: a file stands where a folder is needed ({why}); move it, or {other}"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResultsError(f"{path} cannot be used: {why}; ask for the right to read and write there, or {other}")
    return ResultsError(f"{path} cannot be used: {why}; mend it, or {other}")
