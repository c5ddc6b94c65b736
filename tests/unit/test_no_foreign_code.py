"""Nothing that comes with a model or a checkpoint is ever run."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("sandboxes", "envs", "agents", "trainer", "cli", "examples", "benchmarks")


def calls() -> Iterator[tuple[str, ast.Call]]:
    """(where, call) of every call in the repository's own code."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def argument(call: ast.Call, name: str) -> object:
    """A keyword argument that is a constant; None without it."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def test_no_model_is_loaded_with_its_own_code() -> None:
    found = {where: call for where, call in calls() if name_of(call).endswith(".from_pretrained")}
    models = {where: call for where, call in found.items() if "AutoModel" in name_of(call)}
    assert len(models) >= 2
    assert [where for where, call in models.items() if argument(call, "trust_remote_code") is not False] == []


def test_trust_in_remote_code_is_asked_for_nowhere() -> None:
    texts = {
        path: path.read_text(encoding="utf-8")
        for folder in FOLDERS
        for pattern in ("*.py", "*.yaml")
        for path in (ROOT / folder).rglob(pattern)
    }
    words = ("trust_remote_code=True", "trust-remote-code", "trust_remote_code: true")
    assert [path for path, text in texts.items() if any(word in text for word in words)] == []


def test_no_pickle_is_read_from_a_file() -> None:
    unsafe = [
        where
        for where, call in calls()
        if (name_of(call) == "torch.load" and argument(call, "weights_only") is not True)
        or name_of(call) in ("pickle.load", "joblib.load")
        or (name_of(call) == "numpy.load" and argument(call, "allow_pickle") is True)
    ]
    assert unsafe == []
