"""Datasets in columns: Parquet and Arrow files, and what Hugging Face's library knows. Read in batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from .json_kinds import is_list, is_object
from .problem import DatasetError, check_columns
from .record import Record

BATCH_ROWS = 256


class Table(ABC):
    """Rows of columns. A null is an absent field: a column has a cell in every row, whether it says something
    or not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size: int | None = None
        self._row = 0
        self.position: Callable[[], int] = lambda: self._row

    @abstractmethod
    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as they are kept, nulls and all."""

    def __iter__(self) -> Iterator[Record]:
        self._row = 0
        for row in self.rows():
            self._row += 1
            try:
                yield Record(self._row, to_json(without_nulls(row)))
            except (PydanticSerializationError, UnicodeDecodeError) as error:
                raise DatasetError(f"{self.name}:{self._row}: {error}; drop the columns of bytes") from error


class Parquet(Table):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def rows(self) -> Iterator[dict[str, Any]]:
        parquet = import_module("pyarrow.parquet")
        with self._path.open("rb") as file, _readable(self.name):
            found = parquet.ParquetFile(file)
            self.size = found.metadata.num_rows
            check_columns(found.schema_arrow.names, self.name)
            for batch in found.iter_batches(batch_size=BATCH_ROWS):
                yield from batch.to_pylist()


class Arrow(Table):
    """A file or a stream of Arrow's; Hugging Face's library keeps streams."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def rows(self) -> Iterator[dict[str, Any]]:
        ipc = import_module("pyarrow.ipc")
        with self._path.open("rb") as file, _readable(self.name):
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            table = ipc.open_file(file) if is_file else ipc.open_stream(file)
            check_columns(table.schema.names, self.name)
            for batch in _batches(table) if is_file else table:
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield from batch.slice(start, BATCH_ROWS).to_pylist()


class HuggingFace(Table):
    """`hf:openai/gsm8k:main:train`, streamed from the hub or a folder of files, or a saved folder.

    Fetching is that library's: where it looks and what it keeps, its own variables say (`HF_HOME`,
    `HF_HUB_OFFLINE`).
    """

    def rows(self) -> Iterator[dict[str, Any]]:
        library = import_module("datasets")
        with _readable(self.name):
            found = self._load(library)
            self.size = getattr(found, "num_rows", None)  # a streamed one does not know
            yield from found

    def _load(self, library: Any) -> Any:
        match self.name.removeprefix("hf:").split(":"):
            case [name] if Path(name, "dataset_info.json").exists():
                return library.load_from_disk(name)
            case [name, split] if Path(name, "dataset_dict.json").exists():
                return library.load_from_disk(name)[split]
            case [name, split]:
                return library.load_dataset(name, split=split, streaming=True)
            case [name, config, split]:
                return library.load_dataset(name, config, split=split, streaming=True)
            case _:
                raise DatasetError(
                    f"{self.name}: names no split; write hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT, "
                    "such as hf:openai/gsm8k:main:train"
                )


def _batches(file: Any) -> Iterator[Any]:
    return (file.get_batch(number) for number in range(file.num_record_batches))


@contextmanager
def _readable(name: str) -> Generator[None]:
    try:
        yield
    except DatasetError:
        raise
    except (ValueError, LookupError, OSError) as error:  # of the two libraries, whose own are such
        raise DatasetError(f"{name}: {error}; look whether it is there and whole") from error


def without_nulls(value: Any) -> Any:
    """The value without the nulls in its objects, at any depth.

    >>> without_nulls({"role": "user", "tool_calls": None, "content": [None, "x"]})
    {'role': 'user', 'content': [None, 'x']}
    """
    if is_object(value):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    if is_list(value):
        return [without_nulls(each) for each in value]
    return value
