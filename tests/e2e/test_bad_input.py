"""What a person gets wrong: exit code 2, one paragraph that says what and how to mend it, nothing lost."""

import hashlib
import os
import shlex
import shutil
import socket
import sys
import sysconfig
from pathlib import Path

import pytest
from command import Done, TinyRun, forbid_sandboxes, forked, palaestra, write_recipe
from support import ROOT

from palaestra.agents.ledger import Ledger
from palaestra.sandboxes._inside import linux

WRONG = [
    (["grpo.group_sise=4"], ["grpo.group_sise", "no such field", "did you mean 'group_size'"]),
    (["grpo.steps=-1"], ["grpo.steps", "-1", "greater than or equal to 0"]),
    (["grpo.steps=["], ["--set", "grpo.steps=[", "not YAML"]),
    (["env.budget.max_turns=-1"], ["env.budget", "max_turns=-1", "more than 0", "no limit"]),
    (["env.budget.max_turns=0"], ["env.budget", "max_turns=0", "lets nobody play"]),
    (["grpo.steps=true"], ["grpo.steps", "True", "true or false is not"]),
    (["trackers=[cvs]"], ["trackers", "unknown tracker 'cvs'", "tensorboard", "module:Class"]),
    (["engine.max_context=1"], ["engine.max_context", "1", "greater than or equal to 2"]),
    (["model.tiny=null", "model.path=/nowhere"], ["model.path", "/nowhere", "config.json", "model.tiny"]),
    (["engine.url=http://127.0.0.1:1"], ["engine.url", "engine.kind: vllm", "local"]),
    (
        ["lora.base_dtype=bfloat16"],
        ["lora.base_dtype", "model.dtype: float32", "set model.dtype to bfloat16"],
    ),
    (["model.tool_format=xml"], ["model.tool_format", "'xml'", "hermes", "react"]),
    (["env.id=nope"], ["unknown env 'nope'", "arithmetic", "module:Class"]),
    (["env.id=nope:Env"], ["'nope:Env'", "No module named 'nope'", "PYTHONPATH"]),
    (["env.id=cli_envs:Nope"], ["'cli_envs:Nope'", "has no 'Nope'"]),
    (["env.id=cli_envs:Path"], ["'cli_envs:Path'", "not a subclass of palaestra.envs.Env"]),
    (["env.id=cli_envs:NoTasks"], ["env.tasks", "NoTasks", "define the classmethod `tasks`"]),
    (["env.id=cli_envs:NoOracle"], ["warm_start", "NoOracle has no oracle", "set model.path"]),
    (["env.id=cli_envs:NoOracle", "warm_start=null"], ["model.tiny", "NoOracle has no oracle"]),
    (["env.id=cli_envs:BrokenTasks"], ["env.tasks", "KeyError: 'test-24'", "cli_envs.py, line"]),
    (["env.id=cli_envs:ListTasks"], ["env.tasks", "ListTasks.tasks returned list", "TaskSet(tasks)"]),
    (["env.id=cli_envs:BrokenInit"], ["env.options", "ZeroDivisionError", "cli_envs.py, line"]),
    (["env.tasks.size=0"], ["env.tasks", "Odd.tasks made no task"]),
    (["model.tiny.heads=3"], ["model.tiny.hidden", "32", "model.tiny.heads=3"]),
    (["env.tasks.sise=3"], ["env.tasks", "'sise'", "Odd.tasks takes: size, path"]),
    (["env.tasks.path=/no/such.txt"], ["env.tasks", "No such file", "/no/such.txt"]),
    (["env.id=arithmetic", "env.tasks.generator=nope"], ["env.tasks", "generator='nope'", "reasoning-gym"]),
    (["env.held_out=99"], ["env.held_out", "99", "24 distinct prompts", "ask for fewer"]),
    (["env.held_out=24"], ["env.held_out", "24", "none is left to train on", "ask for fewer"]),
    (["env.options.api_kee=x"], ["env.options", "'api_kee'", "Odd takes: api_key"]),
    (["grpo.loss=nope"], ["grpo.loss", "unknown loss 'nope'", "ppo_clip", "module:Class"]),
    (["grpo.loss=dr_grpo"], ["grpo.aggregation_tokens", "constant", "Set both"]),
    (["grpo.aggregation_tokens=9"], ["grpo.aggregation_tokens", "9", "token", "neither"]),
    (["grpo.advantage=nope"], ["grpo.advantage", "unknown advantage 'nope'", "rloo", "module:Class"]),
    (["grpo.advantage=nope:Credit"], ["grpo.advantage", "'nope:Credit'", "PYTHONPATH"]),
    (["grpo.advantage_options.gamma=1"], ["grpo.advantage", "gamma: 1", "no such field", "normalise"]),
    (["grpo.advantage_options.normalise=most"], ["grpo.advantage", "normalise: 'most'", "valid boolean"]),
    (
        ["grpo.advantage=pass_at_k", "grpo.advantage_options.k=9"],
        ["grpo.group_size", "the 9 that pass_at_k needs"],
    ),
    (["grpo.loss=nope:Loss"], ["grpo.loss", "'nope:Loss'", "PYTHONPATH"]),
    (["grpo.loss_options.clip=1"], ["grpo.loss", "clip: 1", "no such field", "clip_low"]),
    (["grpo.loss_options.clip_low=much"], ["grpo.loss", "clip_low: 'much'", "valid number"]),
    (
        ["engine.url=http://127.0.0.1:1", "engine.kind=vllm"],
        ["engine.url", "http://127.0.0.1:1", "model.path"],
    ),
]


def refusal(done: Done) -> str:
    """The paragraph, when the command refused as it should."""
    assert done.code == 2, done
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert done.stderr.startswith("palaestra: ") and "\n\n" not in done.stderr
    return done.stderr


def check_refused(done: Done, words: list[str]) -> None:
    said = refusal(done)
    assert [word for word in words if word not in said] == [], said


def contents(folder: Path) -> dict[str, str]:
    """Every file with its hash, but the lock, which names whoever holds it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.lock"
    }


@pytest.fixture
def own_run(tiny_run: TinyRun, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run.cwd, tmp_path / "copy")


@pytest.mark.parametrize(("sets", "words"), WRONG, ids=lambda value: value[-1] if value else "")
def test_a_wrong_recipe_is_refused_before_anything_is_started(
    tmp_path: Path, sets: list[str], words: list[str]
) -> None:
    overrides = [word for setting in sets for word in ("--set", setting)]
    done = palaestra("train", write_recipe(tmp_path), "--dry-run", *overrides, cwd=tmp_path)
    check_refused(done, words)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["cannot read the recipe", "tiny.yaml", "No such file"]),
        (b"name: [", ["tiny.yaml", "is not YAML"]),
        (b"\xff\xfe\x00", ["tiny.yaml", "is not YAML"]),
        (b"- a", ["tiny.yaml", "YAML mapping", "name: my-run"]),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes | None, words: list[str]) -> None:
    path = tmp_path / "tiny.yaml"
    if content is not None:
        path.write_bytes(content)
    check_refused(palaestra("check", "recipe", path, cwd=tmp_path), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("eval tiny.yaml", ["--policy model", "no model.path", "runs/tiny/policy"]),
        ("eval tiny.yaml --policy nowhere", ["--policy: nowhere", "is no run, checkpoint, model or adapter"]),
        ("eval tiny.yaml --policy http://127.0.0.1:1", ["--policy http://127.0.0.1:1", "--model-name"]),
        (
            "eval tiny.yaml --policy http://127.0.0.1:1 --model-name x --api-key-env NO_KEY",
            ["--api-key-env", "'NO_KEY'", "export"],
        ),
        ("eval tiny.yaml --policy oracle --set env.id=cli_envs:NoOracle", ["--policy oracle", "no oracle"]),
        ("play tiny.yaml --task 99", ["--task 99", "0 .. 3"]),
        ("replay nowhere", ["nowhere: there is no recipe.yaml", "a training run, such as runs/"]),
        ("check env nope", ["unknown env 'nope'", "arithmetic"]),
        ("check env cli_envs:Odd --options 3", ["--options '3'", "mapping"]),
        ("check env cli_envs:Odd --options '{sise: 3}'", ["'sise'", "Odd.tasks"]),
        ("check env cli_envs:Odd --options '{size: 0}'", ["--options '{size: 0}'", "made no task"]),
        ("check env cli_envs:BrokenTasks", ["--options '{}'", "KeyError: 'test-24'", "cli_envs.py"]),
        ("eval tiny.yaml --policy oracle --name ../../x", ["--name '../../x'", "letters, digits"]),
        ("check sandbox --backend chroot", ["--backend chroot", "namespaces, landlock, docker"]),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: str, words: list[str]) -> None:
    write_recipe(tmp_path)
    check_refused(forked(*shlex.split(arguments), cwd=tmp_path), words)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_port_in_use_is_found_before_vllm_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        recipe = write_recipe(tmp_path, engine={"kind": "vllm", "port": port}, lora={"rank": 2})
        done = forked("train", recipe, cwd=tmp_path, env={"PALAESTRA_VLLM_PYTHON": sys.executable})
    check_refused(done, ["engine.port", str(port), "Address already in use", "port 0"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_model_that_was_cut_off_is_refused(tmp_path: Path, tiny_run: TinyRun, command: str) -> None:
    model = shutil.copytree(tiny_run.folder / "policy", tmp_path / "model")
    os.truncate(model / "model.safetensors", (model / "model.safetensors").stat().st_size - 8)
    recipe = write_recipe(tmp_path, model={"path": str(model), "tool_format": "none"}, warm_start=None)
    done = forked(command, recipe, *(["--policy", str(model)] if command == "eval" else []), cwd=tmp_path)
    assert done.code == 2 and "Traceback" not in done.stderr, done
    for words in ("engine: cannot serve", str(model), "incomplete"):
        assert words in done.stderr


def test_an_adapter_that_vllm_cannot_serve_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, engine={"kind": "vllm"}, lora={"rank": 600})
    done = forked("train", recipe, cwd=tmp_path, env={"PALAESTRA_VLLM_PYTHON": sys.executable})
    check_refused(done, ["lora.rank", "600", "512"])


def test_vllm_that_is_not_installed_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, engine={"kind": "vllm"}, lora={"rank": 2})
    done = forked("train", recipe, cwd=tmp_path, env={"PALAESTRA_VLLM_PYTHON": "/no/python"})
    check_refused(done, ["engine.kind", "vllm", "'/no/python' does not exist", "PALAESTRA_VLLM_PYTHON"])
    assert not (tmp_path / "runs").exists()


def test_an_interpreter_without_vllm_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    recipe = write_recipe(tmp_path, engine={"kind": "vllm"}, lora={"rank": 2})
    done = forked("train", recipe, cwd=tmp_path, env={"PALAESTRA_VLLM_PYTHON": str(bare)})
    check_refused(done, ["engine.kind", str(bare), "cannot import vllm", "make vllm-cpu"])
    assert not (tmp_path / "runs").exists()


def test_a_key_that_is_not_in_the_environment_is_found_before_vllm_is_started(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, engine={"kind": "vllm", "api_key_env": "NO_SUCH_KEY"}, lora={"rank": 2})
    check_refused(forked("train", recipe, cwd=tmp_path), ["engine", "api_key_env='NO_SUCH_KEY'"])


def test_a_server_that_is_not_there_is_found_before_the_run(tmp_path: Path, tiny_run: TinyRun) -> None:
    recipe = write_recipe(
        tmp_path,
        engine={"kind": "vllm", "url": "http://127.0.0.1:1"},
        model={"path": str(tiny_run.folder / "model"), "tool_format": "none"},
        warm_start=None,
        lora={"rank": 2},
    )
    check_refused(forked("train", recipe, cwd=tmp_path), ["engine.url", "http://127.0.0.1:1"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [["train"], ["check", "recipe"], ["play"]])
def test_a_machine_without_any_sandbox_tier_is_told_why(tmp_path: Path, command: list[str]) -> None:
    recipe = write_recipe(tmp_path, env={"id": "cli_envs:Boxed", "held_out": 4})
    done = forked(*command, recipe, cwd=tmp_path, first=forbid_sandboxes)
    check_refused(done, ["namespaces tier does not hold", "landlock tier does not hold", "sysctl", "docker"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("runs_dir", ["/dev/null/runs", "/proc/runs", "/sys/runs"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, runs_dir: str) -> None:
    done = forked("train", write_recipe(tmp_path, runs_dir=runs_dir), cwd=tmp_path)
    check_refused(done, ["runs_dir", f"{runs_dir}/tiny", "--set runs_dir="])


def test_a_run_is_never_written_over(tiny_run: TinyRun) -> None:
    before = contents(tiny_run.cwd)
    done = palaestra("train", "tiny.yaml", cwd=tiny_run.cwd)
    check_refused(done, ["runs/tiny holds a run", "--resume", "--set name="])
    done = palaestra("train", "tiny.yaml", "--resume", "--set", "seed=7", cwd=tiny_run.cwd)
    check_refused(done, ["the recipe differs", "runs/tiny/recipe.yaml", "seed was 0, is 7", "--set name="])
    done = palaestra("train", "tiny.yaml", "--resume", "--set", "name=other", cwd=tiny_run.cwd)
    check_refused(done, ["--resume", "no run in runs/other", "without --resume"])
    assert contents(tiny_run.cwd) == before


def test_a_run_that_another_process_writes_is_left_alone(own_run: Path) -> None:
    before = contents(own_run)
    with Ledger(own_run / "runs" / "tiny"):
        done = forked("train", "tiny.yaml", "--resume", cwd=own_run)
    check_refused(done, ["runs/tiny is being written by process", str(os.getpid()), "another run name"])
    assert contents(own_run) == before


@pytest.mark.parametrize("command", [("train", "tiny.yaml", "--resume"), ("replay", "runs/tiny")])
def test_a_corrupt_run_file_is_left_as_it_is(own_run: Path, command: tuple[str, ...]) -> None:
    path = own_run / "runs" / "tiny" / "run.sqlite"
    data = bytearray(path.read_bytes())
    data[4096 : len(data) - 4096] = bytes(len(data) - 8192)
    path.write_bytes(data)
    before = contents(own_run)
    check_refused(forked(*command, cwd=own_run), ["run.sqlite", "corrupt", ".recover", "another name"])
    assert before.items() <= contents(own_run).items()  # a reader may leave SQLite's empty side files


def test_corrupt_checkpoints_are_named_and_kept(own_run: Path) -> None:
    run = own_run / "runs" / "tiny"
    for path in (run / "checkpoints").rglob("weights.safetensors"):
        path.write_bytes(b"no weights")
    done = forked("train", "tiny.yaml", "--resume", cwd=own_run)
    assert done.code == 2 and "Traceback" not in done.stderr
    assert "no checkpoint in runs/tiny/checkpoints is whole; remove them" in done.stderr
    assert len(list((run / "checkpoints").iterdir())) == 2


def test_a_run_folder_that_cannot_be_written_is_refused(own_run: Path) -> None:
    run = own_run / "runs" / "tiny"
    (run / "run.lock").unlink()
    before = contents(own_run)
    run.chmod(0o555)
    try:
        done = forked("train", "tiny.yaml", "--resume", cwd=own_run, first=linux.drop_capabilities)
        check_refused(done, ["cannot write", "runs/tiny/run.lock", "Permission denied"])
    finally:
        run.chmod(0o755)
    assert contents(own_run) == before


@pytest.fixture(scope="module")
def bare_packages(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH of an installation without the optional packages: links to all others."""
    farm = tmp_path_factory.mktemp("site-packages")
    optional = ("torch", "transformers", "peft", "reasoning_gym", "docker", "vllm")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(optional):
            (farm / entry.name).symlink_to(entry)
    return os.pathsep.join(map(str, (farm, ROOT / "typings", ROOT / "tests")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train tiny.yaml", ["torch is not installed", "pip install 'palaestra[train]'"]),
        ("train tiny.yaml --set env.id=arithmetic --dry-run", ["reasoning_gym", "palaestra[catalog]"]),
        ("check sandbox --backend docker", ["docker", "palaestra[docker]"]),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, bare_packages: str, arguments: str, words: list[str]
) -> None:
    write_recipe(tmp_path)
    done = palaestra(*arguments.split(), cwd=tmp_path, env={"PYTHONPATH": bare_packages}, python=("-P", "-S"))
    if "docker" in arguments:  # a check that fails, and says why
        assert done.code == 1 and all(word in done.stdout for word in words), done
    else:
        check_refused(done, words)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
