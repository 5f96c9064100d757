"""A folder on a local disk or at a URL, whose files are read and written so that no reader sees half a file."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from raypipe.errors import RaypipeError, SourceError, UsageError, message_of, one_line
from raypipe.runs.parquet import read_whole, write_parquet
from raypipe.storage import cut_name, failure, is_transient, local_path, open_filesystem, patiently, shown, url_below

T = TypeVar("T")

_READERS = 8  # So many files of an object store are read at the same time.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")
_SCRATCH = ".raypipe-"


@dataclass(frozen=True)
class Folder:
    """The files of a run directory, on a local disk or at any fsspec URL.

    Parameters
    ----------
    url
        A local folder or a URL such as ``s3://bucket/runs/kitchen``. Nothing is created until something is written.

    Notes
    -----
    On a local disk a file is written under a temporary name and renamed; on an object store one PUT does it.
    """

    url: str

    def __str__(self) -> str:
        """Return the folder or URL as messages name it: without a password that stands in it."""
        return shown(self.url)

    def __post_init__(self) -> None:
        if (path := local_path(self.url)) is not None:  # One spelling of a folder: ``~`` and ``file://`` are none.
            object.__setattr__(self, "url", os.path.expanduser(path))  # noqa: PTH111 – a Path has no trailing slash

    def __reduce__(self):
        # Another process may have another working directory.
        return (type(self), (self.path() if self._is_local else self.url,))

    @property
    def _is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    @cached_property
    def _fs(self) -> fsspec.AbstractFileSystem:
        return self._fs_and_root[0]

    @cached_property
    def _fs_and_root(self) -> tuple[fsspec.AbstractFileSystem, str]:
        if not self.url:
            raise UsageError("a run directory has a name: -o is empty")
        if (path := local_path(self.url)) is not None:
            return LocalFileSystem(), LocalFileSystem._strip_protocol(path)
        try:
            return open_filesystem(self.url)
        except SourceError as error:
            reason = str(error).removeprefix(f"cannot open {self}: ").removeprefix(f"{self}: ")
            raise UsageError(f"cannot use {self} as a run directory: {reason}") from error

    def path(self, name: str = "") -> str:
        """Return the path of a file of the run, as its file system knows it."""
        root = self._fs_and_root[1].rstrip("/")
        return f"{root}/{name}" if name else root

    def place(self, name: str = "") -> str:
        """Return where a file of the run lies as a person writes it: a path, or a URL."""
        path = self.path(name)
        return path if self._is_local else self._url(path)

    def _url(self, path: str) -> str:
        return url_below(self.url, self._fs, self.path(), path)

    def exists(self, name: str) -> bool:
        """Whether the run holds that file or folder."""
        return self._do("find", name, self._fs.exists)

    def files(self, folder: str, suffix: str = "") -> list[str]:
        """Return the names of the folder's finished files, sorted, relative to the run."""
        names = (entry.rsplit("/", 1)[-1] for entry in self._list(folder, detail=False))
        return sorted(f"{folder}/{name}" for name in names if name.endswith(suffix) and _is_file(name))

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each of the folder's finished files, by its name as in `files`."""
        found = ((each["name"].rsplit("/", 1)[-1], each["size"] or 0) for each in self._list(folder, detail=True))
        return {f"{folder}/{name}": size for name, size in found if _is_file(name)}

    def _list(self, folder: str, detail: bool) -> list[Any]:
        """Return what lies in a folder, as its file system tells it now; nothing of a folder that is not there."""

        def list_anew(path: str) -> list[Any]:
            self._fs.invalidate_cache(path)
            return self._fs.ls(path, detail=detail) if self._fs.isdir(path) else []

        return self._do("list", folder, list_anew)

    def for_each(self, names: Sequence[str], call: Callable[[str], T]) -> list[T]:
        """Call for each file: one by one on a local disk, several at once on an object store to hide its latency."""
        if self._is_local:
            return [call(name) for name in names]
        with ThreadPoolExecutor(_READERS) as threads:
            return list(threads.map(call, names))

    def next_name(self, folder: str) -> str:
        """Return a name for a new Parquet file that sorts behind the folder's others; no two calls return the same."""
        numbers = [name.rpartition("/")[2].partition("-")[0] for name in self.files(folder, ".parquet")]
        number = max((int(each) for each in numbers if each.isdigit()), default=-1) + 1
        return f"{folder}/{number:08d}-{uuid.uuid4().hex[:8]}.parquet"

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        if self.exists(name):
            try:
                self._do("remove", name, lambda path: self._fs.rm(path, recursive=True))
            except FileNotFoundError:  # Another command has removed it too, or part of it.
                if self.exists(name):
                    raise
        self._fs.invalidate_cache(self.path())

    def sweep(self) -> None:
        """Remove temporary files, an hour old or older, that killed processes have left on a local disk."""
        if self._is_local:
            for file in Path(self.path()).rglob(".*"):
                if _TEMPORARY.fullmatch(file.name) and _is_old(file):
                    with contextlib.suppress(OSError):
                        file.unlink()

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all.

        Raises
        ------
        RaypipeError
            If the place cannot be written.
        """

        def write(path: str) -> None:
            if not self._is_local:
                return self._fs.pipe_file(path, content)
            with _replacing(Path(path)) as temporary:
                temporary.write_bytes(content)

        try:
            self._do("write", name, write)
        except FileNotFoundError as error:
            raise RaypipeError(f"cannot write {self}: there is no such bucket or folder") from error

    def append(self, name: str, line: str) -> None:
        """Append a line to a file. Where that fails nothing is said: the step that needs the disk or the store will."""
        if self._is_local:
            target = Path(self.path(name))
            with contextlib.suppress(OSError):
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        else:  # An object cannot be appended to.
            with contextlib.suppress(RaypipeError):
                before = self.read_bytes(name) if self.exists(name) else b""
                self.write_bytes(name, before + f"{line}\n".encode())

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty local folder for large files in the making, beside the run's own on a local disk.

        One that a killed process has left there an hour ago is removed.
        """
        root = Path(self.path()) if self._is_local else None
        try:
            if root is not None:
                root.mkdir(parents=True, exist_ok=True)
                for left in root.glob(_SCRATCH + 8 * "?"):  # So tempfile names them.
                    if all(_is_old(file) for file in (left, *left.rglob("*"))):
                        shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=root) as folder:
                yield Path(folder)
        except OSError as error:
            raise RaypipeError(f"cannot write in {self.path() or '.'}: {error.strerror or error}") from error

    def put(self, name: str, source: Path) -> None:
        """Move a file or a folder from `scratch` into the run, in place of what is there of that name."""

        def move(path: str) -> None:
            if self._is_local:
                source.replace(path)
            elif source.is_dir():
                self._fs.put(f"{source}/", f"{path}/", recursive=True)
            else:
                self._fs.put_file(str(source), path)

        if source.is_dir():
            self.remove(name)
        self._do("write", name, move)

    def read_bytes(self, name: str) -> bytes:
        """Read a file.

        Raises
        ------
        RaypipeError
            If the file is missing: the step that writes it has not been run.
        """
        try:
            return self._do("read", name, self._fs.cat_file)
        except FileNotFoundError as error:
            raise self._missing(name) from error

    def _do(self, doing: str, name: str, call: Callable[[str], T]) -> T:
        """Call with the path of a file of the run; on an object store try again what may be over in a moment.

        Raises
        ------
        FileNotFoundError
            If the file is not there.
        RaypipeError
            If the call fails otherwise: "cannot" ``doing`` the file, and why.
        """
        path = self.path(name)
        if self._is_local:
            try:
                return call(path)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise RaypipeError(f"cannot {doing} {path}: {error.strerror or error}") from error
        url = self._url(path)
        try:
            return patiently(url, lambda: call(path))
        except (FileNotFoundError, pa.ArrowException):
            raise
        except Exception as error:  # Each file system raises its own kinds.
            hint = "; the same command goes on when it can be reached" if is_transient(error) else ""
            raise RaypipeError(f"{failure(doing, url, error)}{hint}") from error

    def _missing(self, name: str) -> RaypipeError:
        return RaypipeError(f"{self} has no {name}: the step that writes it has not been run")

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        self.write_bytes(name, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file; every one of a run holds an object."""
        content = self.read_bytes(name)
        try:
            found = json.loads(content)
        except ValueError as error:
            raise RaypipeError(f"cannot read {self.path(name)}: {one_line(error)}") from error
        if not isinstance(found, dict):
            raise RaypipeError(f"cannot read {self.path(name)}: it holds no object")
        return found

    def write_csv(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        """Write a CSV file, of which the first row has the columns' names."""
        sink = io.StringIO()
        csv.writer(sink, lineterminator="\n").writerows(rows)
        self.write_bytes(name, sink.getvalue().encode())

    def read_csv(self, name: str) -> Iterator[dict[str, str]]:
        """Read a CSV file; yield a row at a time, by the columns' names."""
        return csv.DictReader(io.StringIO(self.read_bytes(name).decode(), newline=""))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        sink = pa.BufferOutputStream()
        write_parquet(sink, [table])
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def write_tables(self, name: str, tables: Iterable[pa.Table]) -> None:
        """Write a Parquet file of several tables, a row group each, with no more than two of them in memory.

        Parameters
        ----------
        name
            The file. The tables may be read from the file of that name, which is replaced at the end.
        tables
            One or more tables of the same schema.
        """

        def write(path: str) -> None:
            with _replacing(Path(path)) as temporary:
                write_parquet(temporary, tables)

        if self._is_local:
            self._do("write", name, write)
            return
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole.parquet"
            try:
                write_parquet(whole, tables)
            except OSError as error:
                raise RaypipeError(f"cannot write {whole}: {error.strerror or error}") from error
            self._do("write", name, lambda path: self._fs.put_file(str(whole), path))

    def n_groups(self, name: str) -> int:
        """Return the number of a Parquet file's row groups."""
        return self.read_parquet(name, lambda file: file.num_row_groups)

    def column_names(self, name: str) -> list[str]:
        """Return the names of a Parquet file's columns."""
        return self.read_parquet(name, lambda file: file.schema_arrow.names)

    def read_table(self, name: str, columns: list[str] | None = None, group: int | None = None) -> pa.Table:
        """Read a Parquet file, or all files of a folder in the order of their names.

        Parameters
        ----------
        name
            The file or folder.
        columns
            The columns to read; all by default.
        group
            The row group to read; the whole file by default.

        Raises
        ------
        RaypipeError
            If it is missing or damaged.
        """
        if not name.endswith(".parquet"):
            if not (tables := list(self.iter_tables(name, columns))):
                raise self._missing(f"{name}/")
            return pa.concat_tables(tables)
        if group is None:
            return self._read_open(name, lambda file: read_whole(file, columns))
        return self.read_parquet(name, lambda file: file.read_row_group(group, columns))

    def read_parquet(self, name: str, call: Callable[[pq.ParquetFile], T]) -> T:
        """Call with a Parquet file that has been opened, and name it in the error if that fails."""
        return self._read_open(name, lambda file: call(pq.ParquetFile(file, pre_buffer=True)))

    def _read_open(self, name: str, call: Callable[[Any], T]) -> T:
        """Call with a file that has been opened; see `read_parquet`."""

        def read(path: str) -> T:
            # Without a cache of fsspec's own, a few columns of a big remote file cost no more than their bytes.
            with self._fs.open(path, "rb", cache_type="none") as file:
                try:
                    return call(file)
                except OSError as error:
                    if error.errno is not None or is_transient(error):
                        raise
                    raise pa.ArrowInvalid(str(error)) from error  # Arrow raises it for a page that does not decompress.

        try:
            return self._do("read", name, read)
        except FileNotFoundError as error:
            raise self._missing(name) from error
        except pa.ArrowException as error:
            reason = message_of(error)[:200]
            raise RaypipeError(f"cannot read {self.path(name)}: {reason}; remove it, and run the same again") from error

    def iter_tables(self, folder: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Iterate over the Parquet files of a folder, one in memory at a time."""
        for name in self.files(folder, ".parquet"):
            yield self.read_table(name, columns)


def _is_old(file: Path) -> bool:
    """Return whether nobody can be writing a file any more: it was written an hour ago, or is gone."""
    try:
        return file.lstat().st_mtime < time.time() - 3600
    except OSError:
        return True


def _is_file(name: str) -> bool:
    """Return whether a name in a folder is that of a finished file.

    Object stores list the empty key that stands for the folder itself, as consoles make it, among its files. It has no
    name, and whoever removed it would remove the folder.
    """
    return bool(name) and not name.startswith(".")


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which takes the target's place if the block writes it and raises nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # `Folder.sweep` knows such names, and they are no longer than names may be.
    temporary = target.with_name(f".{cut_name(target.name, 200)}.{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
