"""The reader of a dataset, by its name."""

from pathlib import Path

from .problem import DatasetError
from .record import Source
from .tables import Arrow, HuggingFace, Parquet
from .text_files import Csv, JsonLines

FORMATS = ".jsonl, .json, .ndjson, .csv, .tsv (each also .gz), .parquet, .arrow, .feather"


def open_source(path: str | Path) -> Source:
    """A file by the end of its name, a folder that Hugging Face's library saved, or `hf:NAME:SPLIT`.

    Nothing is read yet. Raises `DatasetError` where there is nothing, or nothing that can be read.
    """
    if str(path).startswith("hf:"):
        return HuggingFace(str(path))
    path = Path(path)
    if (path / "dataset_info.json").is_file():
        return HuggingFace(f"hf:{path}")
    if not path.is_file():
        there = "is no regular file" if path.exists() else "there is no such file"
        raise DatasetError(f"{path}: {there}; a dataset is one of {FORMATS}, or hf:NAME:SPLIT")
    match (path.with_suffix("") if path.suffix == ".gz" else path).suffix:
        case ".jsonl" | ".json" | ".ndjson":
            return JsonLines(path)
        case ".csv":
            return Csv(path, ",")
        case ".tsv":
            return Csv(path, "\t")
        case ".parquet":
            return Parquet(path)
        case ".arrow" | ".feather":
            return Arrow(path)
        case other:
            raise DatasetError(f"{path}: {other!r} is no format of datasets; write one of {FORMATS}")
