"""Storage of shards: a folder, or an ``s3://`` address with an on-disk cache."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import cache_root
from emotion_lab.core.timeout import call_with_timeout
from emotion_lab.data.s3 import read_error, s3_client, split_address
from emotion_lab.data.types import data_path

META = "stream.json"

#: Seconds to wait for an address.
CONNECT_TIMEOUT_S = 15.0
#: Age in seconds after which a partial download is considered abandoned.
_STALE_SECONDS = 3600


class LocalStorage:
    """A stream in a folder.

    Both storages are picklable (DataLoader workers).
    """

    remote = False

    def __init__(self, root: Path, setting: str = "data.path") -> None:
        self.root, self.setting = root, setting
        self.name = str(root)

    def read_meta(self) -> bytes:
        """Return the content of ``stream.json``."""
        hint = "Make one with python -m emotion_lab.shard out=<folder>."
        where = f"{self.root} (from {self.setting})"
        try:
            return (self.root / META).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if not self.root.exists():
                raise UserError(f"No stream: {where} does not exist. {hint}") from None
            raise UserError(f"{where} is not a stream: it has no {META}. {hint}") from None
        except OSError as error:
            raise UserError(f"Cannot read {self.root / META}: {error.strerror}.") from error

    def file(self, name: str, size: int) -> Path:
        """Return the path of a file of ``size`` bytes."""
        path = self.root / name
        try:
            actual_size = path.stat().st_size
        except OSError as error:
            raise UserError(
                f"{path} is missing from the stream ({error.strerror}): copy it again, or shard "
                "the data again."
            ) from None
        if actual_size != size:
            raise UserError(
                f"{path} has {actual_size:,} bytes instead of {size:,}: the stream is damaged; "
                "copy it again, or shard the data again."
            )
        return path

    def prefetch(self, files: Iterable[tuple[str, int]]) -> None:
        """Do nothing: the files are local."""


class S3Storage:
    """A stream on S3 or a compatible server (``AWS_ENDPOINT_URL``), with an LRU cache on disk.

    Args:
        address: ``s3://bucket/prefix``.
        limit_mib: Maximum size of the cache in MiB; the least recently used shards are removed.
    """

    remote = True

    def __init__(self, address: str, limit_mib: int) -> None:
        bucket, prefix = split_address(address, "data.path")
        self.name = address.rstrip("/")
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.limit = limit_mib * 2**20
        self.cache: Path | None = None
        self._local: tuple[int, Any, ThreadPoolExecutor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_local": None}

    def _client_and_pool(self) -> tuple[Any, ThreadPoolExecutor]:
        """Return client and thread pool of this process; neither survives a fork."""
        if self._local is None or self._local[0] != os.getpid():
            self._local = (os.getpid(), s3_client(), ThreadPoolExecutor(4))
        return self._local[1], self._local[2]

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _read_error(self, name: str, error: BaseException) -> UserError:
        return read_error(f"{self.name}/{name}", "data.path", error)

    def read_meta(self) -> bytes:
        """Download ``stream.json`` and select the cache folder that belongs to its content."""

        def download() -> bytes:
            client, _ = self._client_and_pool()
            return client.get_object(Bucket=self.bucket, Key=self._key(META))["Body"].read()

        try:
            content = call_with_timeout(download, CONNECT_TIMEOUT_S)
        except UserError:
            raise
        except Exception as error:  # botocore creates exception classes at run time
            raise self._read_error(META, error) from None
        # A different stream at the same address gets a different folder.
        identity = hashlib.blake2b(self.name.encode() + content, digest_size=8).hexdigest()
        self.cache = cache_root() / "streams" / identity
        return content

    def file(self, name: str, size: int) -> Path:
        """Return the path of a file in the cache; download it if missing."""
        from filelock import FileLock

        assert self.cache is not None, "call read_meta() first"
        path = self.cache / name
        try:
            if not self._mark_used(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{path}.lock"):
                    if not self._mark_used(path):
                        self._download(name, size, path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise UserError(
                    f"cannot keep {name} in {self.cache} ({error.strerror}): free some space, or "
                    "set EMOTION_LAB_CACHE=<folder> or a smaller data.cache_size_mib."
                ) from None
            raise self._read_error(name, error) from None
        return path

    def _mark_used(self, path: Path) -> bool:
        """Update the time of last use of a cached file; return False if it is not cached."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _download(self, name: str, size: int, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        client, _ = self._client_and_pool()
        try:
            self._reserve_space(size, temporary)
            with temporary.open("r+b") as file:
                try:
                    # One thread per file, because several shards are downloaded in parallel.
                    client.download_fileobj(
                        self.bucket, self._key(name), file, Config=TransferConfig(use_threads=False)
                    )
                except OSError:
                    raise
                except Exception as error:  # botocore creates exception classes at run time
                    raise self._read_error(name, error) from None
                actual_size = file.tell()
            if actual_size != size:
                raise UserError(
                    f"{self.name}/{name} has {actual_size:,} bytes instead of {size:,}: the "
                    "stream is damaged; copy it there again."
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _reserve_space(self, size: int, temporary: Path) -> None:
        """Remove least recently used shards until ``size`` bytes fit, and allocate ``temporary``.

        Running downloads count with their final size.
        """
        from filelock import FileLock

        assert self.cache is not None
        with FileLock(str(self.cache / ".room.lock")):
            removable, total = [], size
            for file in [*self.cache.glob("*/*.tar"), *self.cache.glob("*/.*.tmp")]:
                with contextlib.suppress(FileNotFoundError):
                    stat = file.stat()
                    stale = time.time() - stat.st_mtime > _STALE_SECONDS
                    total += stat.st_size
                    if file.suffix == ".tar" or stale:
                        removable.append((stat.st_mtime_ns, stat.st_size, file))
            for _, file_size, file in sorted(removable):
                if total <= self.limit:
                    break
                # A process that has the file open can still read it.
                with contextlib.suppress(OSError):
                    file.unlink()
                    total -= file_size
            with temporary.open("wb") as placeholder:
                placeholder.truncate(size)

    def prefetch(self, files: Iterable[tuple[str, int]]) -> None:
        """Start downloads in the background; errors are raised when the file is read."""
        _, pool = self._client_and_pool()

        def download(name: str, size: int) -> None:
            with contextlib.suppress(UserError):
                self.file(name, size)

        for name, size in files:
            pool.submit(download, name, size)


Storage: TypeAlias = LocalStorage | S3Storage


def open_storage(cfg: dict[str, Any]) -> Storage:
    """Return the storage at ``data.path`` (or $EMOTION_LAB_DATA, or ``data/``)."""
    path, setting = data_path(cfg)
    if path.startswith("s3://"):
        return S3Storage(path, int(cfg["cache_size_mib"]))
    if "://" in path:
        raise UserError(f"data.path={path} is not valid: expected a folder or s3://<bucket>/...")
    return LocalStorage(Path(path).expanduser(), setting)
