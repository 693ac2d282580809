"""Where a stream lies: a folder, or an ``s3://`` address whose shards are fetched when needed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import cache_root

META = "stream.json"

#: Seconds until an address that does not answer is given up; a name look-up knows no limit.
REACH_SECONDS = 15.0
#: A file that was begun so long ago is what a killed process left.
_STALE_SECONDS = 3600
_INSTALL = 'pip install "emotion_lab[stream]"'


class Storage(Protocol):
    """Files of a stream, by their name relative to it. Picklable (DataLoader workers)."""

    #: What error messages call it.
    name: str
    #: Whether its files are fetched over a network.
    remote: bool

    def meta(self) -> bytes:
        """Return the content of ``stream.json``."""
        ...

    def file(self, name: str, size: int) -> Path:
        """Return a local path of a file that has ``size`` bytes."""
        ...

    def ahead(self, files: Iterable[tuple[str, int]]) -> None:
        """Begin to fetch files that will be needed soon."""
        ...


class LocalStorage:
    """A stream in a folder."""

    remote = False

    def __init__(self, root: Path, setting: str = "data.path") -> None:
        self.root, self.setting = root, setting
        self.name = str(root)

    def meta(self) -> bytes:
        """Return the content of ``stream.json``.

        Raises:
            UserError: If there is none.
        """
        make = "Make one with python -m emotion_lab.shard out=<folder>."
        try:
            return (self.root / META).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise UserError(f"Cannot read {self.root / META}: {error.strerror}.") from error
        if not self.root.exists():
            raise UserError(f"No stream: {self.root} (from {self.setting}) does not exist. {make}")
        raise UserError(f"{self.root} (from {self.setting}) is no stream: it has no {META}. {make}")

    def file(self, name: str, size: int) -> Path:
        """Return the path of a file.

        Raises:
            UserError: If it is missing or has another size.
        """
        path = self.root / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise UserError(
                f"{path} is missing from the stream ({error.strerror}): copy it again, or convert "
                "the data once more."
            ) from None
        if found != size:
            raise UserError(
                f"{path} has {found:,} bytes instead of {size:,}: the stream is damaged; copy it "
                "again, or convert the data once more."
            )
        return path

    def ahead(self, files: Iterable[tuple[str, int]]) -> None:
        """Do nothing: they are here."""


class S3Storage:
    """A stream on S3 or what speaks like it (``AWS_ENDPOINT_URL``), kept in a folder on disk.

    Args:
        address: ``s3://bucket/prefix``.
        limit_mib: The folder is held below this size; what was used longest ago goes first.
    """

    remote = True

    def __init__(self, address: str, limit_mib: int) -> None:
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        if not bucket:
            raise UserError(f"data.path={address} names no bucket: s3://<bucket>/<folder>.")
        self.name = address.rstrip("/")
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.limit = limit_mib * 2**20
        self.cache: Path | None = None
        self._local: tuple[int, Any, ThreadPoolExecutor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_local": None}

    def _tools(self) -> tuple[Any, ThreadPoolExecutor]:
        """Return this process's own client and threads; neither survives a fork."""
        if self._local is None or self._local[0] != os.getpid():
            self._local = (os.getpid(), _client(), ThreadPoolExecutor(4))
        return self._local[1], self._local[2]

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _failed(self, name: str, error: BaseException) -> UserError:
        words = " ".join(str(error).split()) or type(error).__name__
        if "Not Found" in words or "NoSuchKey" in words:
            words = "it is not there"
        return UserError(
            f"Cannot read {self.name}/{name}: {words[:200]}. Check data.path, the network, "
            "AWS_ENDPOINT_URL and the AWS credentials."
        )

    def meta(self) -> bytes:
        """Return the content of ``stream.json``, fetched anew; it names the folder of the cache.

        Raises:
            UserError: If it is not there, or nothing answers.
        """
        result: list[bytes] = []
        failed: list[Exception] = []

        def ask() -> None:
            try:
                client, _ = self._tools()
                answer = client.get_object(Bucket=self.bucket, Key=self._key(META))
                result.append(answer["Body"].read())
            except Exception as error:  # told below, in the thread that waits
                failed.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(REACH_SECONDS)
        if failed and isinstance(failed[0], UserError):
            raise failed[0]
        if not result:
            reason = failed[0] if failed else TimeoutError(f"no answer in {REACH_SECONDS:.0f} s")
            raise self._failed(META, reason) from None
        # Another stream at the same address has another folder.
        identity = hashlib.blake2b(self.name.encode() + result[0], digest_size=8).hexdigest()
        self.cache = cache_root() / "streams" / identity
        return result[0]

    def file(self, name: str, size: int) -> Path:
        """Return the path of a file, fetched if need be.

        Raises:
            UserError: If it cannot be fetched or stored, or has another size.
        """
        from filelock import FileLock

        assert self.cache is not None, "meta() comes first"
        path = self.cache / name
        try:
            if not self._touch(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{path}.lock"):
                    if not self._touch(path):
                        self._fetch(name, size, path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise UserError(
                    f"cannot keep {name} in {self.cache} ({error.strerror}): free some space, or "
                    "set EMOTION_LAB_CACHE=<folder> or a smaller data.cache_size_mib."
                ) from None
            raise self._failed(name, error) from None
        return path

    def _touch(self, path: Path) -> bool:
        """Note that a file is in use; False where it is not here."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _fetch(self, name: str, size: int, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        client, _ = self._tools()
        try:
            self._make_room(size, temporary)
            with open(temporary, "r+b") as file:
                try:
                    # One thread a file: the shards that come next are fetched side by side.
                    client.download_fileobj(
                        self.bucket, self._key(name), file, Config=TransferConfig(use_threads=False)
                    )
                except OSError:
                    raise
                except Exception as error:  # botocore makes its classes as it goes
                    raise self._failed(name, error) from None
                found = file.tell()
            if found != size:
                raise UserError(
                    f"{self.name}/{name} has {found:,} bytes instead of {size:,}: the stream is "
                    "damaged; copy it there again."
                )
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int, temporary: Path) -> None:
        """Delete the shards used longest ago until ``size`` more bytes fit, and claim those.

        Files that are being fetched count with the size they will have.
        """
        from filelock import FileLock

        assert self.cache is not None
        with FileLock(str(self.cache / ".room.lock")):
            kept, total = [], size
            for file in [*self.cache.glob("*/*.tar"), *self.cache.glob("*/.*.tmp")]:
                with contextlib.suppress(FileNotFoundError):
                    stat = file.stat()
                    stale = time.time() - stat.st_mtime > _STALE_SECONDS
                    total += stat.st_size
                    if file.suffix == ".tar" or stale:
                        kept.append((stat.st_mtime_ns, stat.st_size, file))
            for _, freed, file in sorted(kept):
                if total <= self.limit:
                    break
                # Whoever reads it has it open, and keeps it.
                with contextlib.suppress(OSError):
                    file.unlink()
                    total -= freed
            with open(temporary, "wb") as claim:
                claim.truncate(size)

    def ahead(self, files: Iterable[tuple[str, int]]) -> None:
        """Begin to fetch files in the background; what goes wrong is told when one is read."""
        _, pool = self._tools()
        for name, size in files:
            pool.submit(self._quietly, name, size)

    def _quietly(self, name: str, size: int) -> None:
        with contextlib.suppress(UserError):
            self.file(name, size)


def _client() -> Any:
    """Return an S3 client that gives up soon; without credentials it reads public buckets.

    Raises:
        UserError: If boto3 is not installed or its settings are wrong.
    """
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise UserError(f"s3:// addresses need boto3: {_INSTALL}") from None
    try:
        session = boto3.session.Session()
        options: dict[str, Any] = {
            "connect_timeout": 4,
            "read_timeout": 10,
            "retries": {"total_max_attempts": 2, "mode": "standard"},
        }
        if session.get_credentials() is None:
            options["signature_version"] = UNSIGNED
        return session.client("s3", config=Config(**options))
    except (BotoCoreError, ValueError) as error:
        raise UserError(f"the AWS settings cannot be used: {error}.") from None


def find_place(cfg: dict[str, Any]) -> Storage:
    """Return where ``data.path`` (or $EMOTION_LAB_DATA, or ``data/``) points.

    Raises:
        UserError: For an address of a kind that is not known.
    """
    if cfg.get("path"):
        path, setting = str(cfg["path"]), "data.path"
    elif os.environ.get("EMOTION_LAB_DATA"):
        path, setting = os.environ["EMOTION_LAB_DATA"], "$EMOTION_LAB_DATA"
    else:
        path, setting = "data", "the default"
    if path.startswith("s3://"):
        return S3Storage(path, int(cfg["cache_size_mib"]))
    if "://" in path:
        raise UserError(f"data.path={path} is not understood: give a folder or s3://<bucket>/...")
    return LocalStorage(Path(path).expanduser(), setting)
