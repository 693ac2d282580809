"""Client of S3 and compatible servers (``AWS_ENDPOINT_URL``)."""

from __future__ import annotations

from typing import Any

from emotion_lab.core.errors import UserError

_INSTALL = 'pip install "emotion_lab[scale]"'


def s3_client() -> Any:
    """Return a client with short timeouts; without credentials it reads public buckets.

    A client does not survive a fork.
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


def split_address(address: str, key: str) -> tuple[str, str]:
    """Return bucket and path of ``s3://bucket/path``.

    Args:
        key: Config key of the address, for the error message.
    """
    bucket, _, path = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise UserError(f"{key}={address} names no bucket: s3://<bucket>/<folder>.")
    return bucket, path


def read_error(address: str, key: str, error: BaseException) -> UserError:
    """Return the one-line error for an address that cannot be read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if "Not Found" in reason or "NoSuchKey" in reason:
        reason = "it does not exist"
    return UserError(
        f"Cannot read {address}: {reason[:200]}. Check {key}, the network, AWS_ENDPOINT_URL and "
        "the AWS credentials."
    )
