"""Objects in S3, through `boto3`: anonymous, and with the user's AWS credentials where that is refused."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foundation.remote_file import CHUNK, Changed, Interrupted, RemoteError, RemoteFile


class S3Store:
    """Objects in S3."""

    def find(self, url: str) -> list[RemoteFile]:
        """The objects below a prefix, or the one object."""
        bucket, key = _split_s3(url)
        prefix = f"{key.rstrip('/')}/" if key else ""

        def pages(client: Any) -> list[RemoteFile]:
            listed = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            objects = [entry for page in listed for entry in page.get("Contents", []) if not entry["Key"].endswith("/")]
            return [RemoteFile(f"s3://{bucket}/{o['Key']}", o["Size"], _s3_version(o["Size"], o)) for o in objects]

        found: list[RemoteFile] = self._call(url, pages)
        return found or [self.stat(url)]

    def stat(self, url: str) -> RemoteFile:
        """One object, by HEAD."""
        bucket, key = _split_s3(url)
        head = self._call(url, lambda client: client.head_object(Bucket=bucket, Key=key))
        tag = head["ETag"].strip('"')
        # The tag of an object in one piece is its MD5, but for keys of KMS.
        is_md5 = re.fullmatch("[0-9a-f]{32}", tag) and "kms" not in head.get("ServerSideEncryption", "")
        size = int(head["ContentLength"])
        return RemoteFile(url, size, _s3_version(size, head), f"md5:{tag}" if is_md5 else "")

    def chunks(self, file: RemoteFile, start: int) -> tuple[int, Iterator[bytes]]:
        """See `Store`."""
        bucket, key = _split_s3(file.url)
        ranges = {"Range": f"bytes={start}-"} if start else {}
        answer = self._call(file.url, lambda client: client.get_object(Bucket=bucket, Key=key, **ranges))
        if file.version.split()[-1:] != [answer["ETag"].strip('"')]:
            answer["Body"].close()
            raise Changed(f"{file.url}: changed while it was read; run again")
        return start if "ContentRange" in answer else 0, _read_s3(answer["Body"], file.url)

    def put(self, local: Path, url: str) -> None:
        """Write an object, in parts when large."""
        bucket, key = _split_s3(url)
        self._call(url, lambda client: client.upload_file(str(local), bucket, key), signed=True)

    def remove(self, url: str) -> None:
        """Delete an object."""
        bucket, key = _split_s3(url)
        self._call(url, lambda client: client.delete_object(Bucket=bucket, Key=key), signed=True)

    def _call(self, url: str, action: Callable[[Any], Any], signed: bool = False) -> Any:
        import botocore.exceptions as errors

        try:
            return action(_s3_client(os.getpid(), signed))
        except errors.NoCredentialsError as error:
            raise RemoteError(f"{url}: not public, and no AWS credentials were found (`aws configure`)") from error
        except errors.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status in (401, 403) and not signed:
                return self._call(url, action, signed=True)
            if status == 404:
                raise FileNotFoundError(f"{url}: not found in S3") from error
            if status == 416:
                raise Changed(f"{url}: became shorter while it was read; run again") from error
            if status == 429 or status >= 500:
                raise Interrupted(f"{url}: {error}") from error
            raise RemoteError(f"{url}: {error}") from error
        except errors.HTTPClientError as error:
            raise Interrupted(f"{url}: {error}") from error
        except errors.BotoCoreError as error:
            raise RemoteError(f"{url}: {error}") from error


def _read_s3(body: Any, url: str) -> Iterator[bytes]:
    from botocore.exceptions import BotoCoreError, HTTPClientError
    from urllib3.exceptions import HTTPError

    try:
        while chunk := body.read(CHUNK):
            yield chunk
    except (BotoCoreError, HTTPClientError, HTTPError, OSError) as error:
        raise Interrupted(f"{url}: {type(error).__name__}") from error
    finally:
        body.close()


def _split_s3(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise RemoteError(f"{url}: expected s3://bucket/path")
    return bucket, key


def _s3_version(size: int, answer: dict[str, Any]) -> str:
    return f"{size} " + answer["ETag"].strip('"')


@functools.cache
def _s3_client(pid: int, signed: bool) -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(retries={"max_attempts": 3, "mode": "standard"}, connect_timeout=10, read_timeout=60)
    return boto3.client("s3", config=config if signed else config.merge(Config(signature_version=UNSIGNED)))
