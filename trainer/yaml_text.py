"""YAML whose numbers are those that people write: `3e-3` is one, as in YAML 1.2 and in JSON.

YAML 1.1, which the library reads, wants a point and a sign in it, and takes every other one for text. Imports
without torch.
"""

import re
from typing import Any

import yaml

_NUMBER = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    """It quotes a text that would be read back as a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
        "tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789")
    )


def read_yaml(text: str) -> Any:
    """What a text says. Raises `yaml.YAMLError`.

    >>> read_yaml("lr: 3e-3")
    {'lr': 0.003}
    """
    return yaml.load(text, _Loader)  # a safe loader, with one more way to write a number


def write_yaml(value: Any) -> str:
    """A text that `read_yaml` reads as the same value.

    >>> write_yaml({"name": "1e5"})
    "name: '1e5'\\n"
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)
