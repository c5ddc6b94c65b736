"""Task folders of Harbor that must not be taken: links to files of this machine, and bad settings."""

from pathlib import Path

import pytest

from palaestra.envs.adapters.harbor import Folder, read_folder


def task_folder(path: Path, **files: bytes) -> Path:
    names = {"config": "task.toml", "docker": "environment/Dockerfile", "instruction": "instruction.md"}
    needed = {"instruction.md": b"x", "tests/test.sh": b"true", "environment/data/a.txt": b"a"}
    for name, data in (needed | {names[key]: each for key, each in files.items()}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize(
    "part",
    [
        "instruction.md",
        "task.toml",
        "tests",
        "tests/test.sh",
        "environment",
        "environment/data/a.txt",
        "solution",
    ],
)
def test_a_link_is_refused_by_its_name_wherever_it_leads(tmp_path: Path, part: str) -> None:
    task = task_folder(tmp_path / "task")
    (tmp_path / "elsewhere").mkdir()
    where = task / part
    if where.exists():
        where.rename(tmp_path / "elsewhere" / "it")
    else:
        (tmp_path / "elsewhere" / "it").touch()
    where.symlink_to(tmp_path / "elsewhere" / "it")
    with pytest.raises(ValueError, match=rf"task: {part}: a link, .*; put the file there"):
        read_folder(task)


def test_the_folder_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    task_folder(tmp_path / "task")
    (tmp_path / "same").symlink_to(tmp_path / "task")
    folder = read_folder(tmp_path / "same").private["folder"]
    assert isinstance(folder, Folder) and folder.files == {"data/a.txt": b"a"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config": b"verifier = 5"}, r"task.toml: verifier = 5: .*write \[verifier\]"),
        ({"config": b'[verifier]\ntimeout_sec = "abc"'}, "task.toml: verifier.timeout_sec = 'abc': "),
        (
            {"config": b"[verifier]\ntimeout_sec = -5"},
            "task.toml: verifier.timeout_sec = -5: .*greater than 0",
        ),
        ({"config": b"[verifier]\ntimeout_sec = inf"}, "task.toml: verifier.timeout_sec = inf: "),
        ({"config": b"[verifier]\ntimeout_sec = true"}, "task.toml: verifier.timeout_sec = True: "),
        ({"config": b"# \xff"}, "task.toml: byte 3 is no UTF-8"),
        ({"instruction": b"caf\xe9"}, "instruction.md: byte 4 is no UTF-8"),
        ({"docker": b"FROM a\nCOPY data ../../tmp/"}, "Dockerfile: 'COPY data ../../tmp/' leads out"),
        ({"docker": b"FROM a\nCOPY ../other /app"}, "leads out of the folder"),
        (
            {"docker": b"FROM a\nCOPY *.txt /app/"},
            r"Dockerfile: .COPY \*.txt /app/. copies nothing: .*no file",
        ),
        ({"docker": b"# caf\xe9"}, "Dockerfile: byte 6 is no UTF-8"),
    ],
)
def test_what_a_folder_says_wrongly_is_told_with_file_and_field(
    tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        read_folder(task_folder(tmp_path / "task", **files))


def test_whole_seconds_and_other_settings_are_taken(tmp_path: Path) -> None:
    config = b'version = "1.0"\n[verifier]\ntimeout_sec = 5\n[agent]\ntimeout_sec = 9.0'
    folder = read_folder(task_folder(tmp_path / "task", config=config)).private["folder"]
    assert folder.timeout_s == 5.0
