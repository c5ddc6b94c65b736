"""Clients of AWS that ask once: who calls them knows better what may be asked again."""

from importlib import import_module
from typing import Any


def aws_client(
    service: str, *, timeout_s: float, function: str | None = None, endpoint_url: str | None = None
) -> Any:
    """A boto3 client with the credentials that boto3 finds, in the region of the function's ARN.

    Raises `ValueError` where boto3 finds no region.
    """
    boto3, config, errors = map(import_module, ("boto3", "botocore.config", "botocore.exceptions"))
    region = function.split(":")[3] if function is not None and function.startswith("arn:") else None
    # Its own retries ask again after a timeout too, and a function would run twice.
    once = config.Config(
        retries={"total_max_attempts": 1},
        read_timeout=timeout_s,
        connect_timeout=min(timeout_s, 10.0),
        max_pool_connections=64,
    )
    try:
        session = boto3.session.Session()
        return session.client(service, region_name=region, endpoint_url=endpoint_url, config=once)
    except errors.BotoCoreError as error:
        raise ValueError(
            f"{function or service}: {error}; name the function by its ARN, or set AWS_REGION"
        ) from error
