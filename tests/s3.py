"""An S3 server on loopback."""

from __future__ import annotations

import http.client
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def s3_server() -> Iterator[str]:
    """HOST:PORT of a new server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto: Any = importlib.import_module("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


def empty_server(server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the emptied server, with one bucket; the environment has what others need to find it."""
    connection = http.client.HTTPConnection(server)
    connection.request("POST", "/moto-api/reset")
    assert connection.getresponse().status == 200
    connection.close()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{server}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = s3_client()
    client.create_bucket(Bucket=bucket)
    return client


def s3_client() -> Any:
    boto3: Any = importlib.import_module("boto3")
    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def download(bucket: str, prefix: str) -> dict[str, bytes]:
    """Every object below `prefix`, by the rest of its name."""
    client = s3_client()
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for item in page.get("Contents", ()):
            body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            found[item["Key"].removeprefix(f"{prefix}/")] = body
    return found
