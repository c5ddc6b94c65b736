"""The names of `palaestra.trainer`: what the imperative API needs, from one place, and no torch before."""

import ast
import subprocess
import sys
from importlib import import_module

import pytest
from support import ROOT

import palaestra.trainer

SOURCE = (ROOT / "trainer" / "__init__.py").read_text(encoding="utf-8")


def typed_homes() -> dict[str, str]:
    """Where a type checker finds each name."""
    tree = ast.parse(SOURCE).body
    (block,) = (node for node in tree if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    return {
        name.name: f"palaestra.trainer.{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }


def test_there_are_about_twenty_names_in_order() -> None:
    names = palaestra.trainer.__all__
    assert sorted(names) == names and 15 <= len(names) <= 25
    assert set(names) == set(typed_homes()) and set(names) <= set(dir(palaestra.trainer))


@pytest.mark.parametrize("name", palaestra.trainer.__all__)
def test_a_name_is_what_a_type_checker_takes_it_for(name: str) -> None:
    found = getattr(palaestra.trainer, name)
    assert found is getattr(import_module(typed_homes()[name]), name)
    assert getattr(palaestra.trainer, name) is found


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    name = "Lerner"
    with pytest.raises(AttributeError, match=r"module 'palaestra\.trainer' has no attribute 'Lerner'"):
        getattr(palaestra.trainer, name)
    with pytest.raises(ImportError, match="cannot import name 'Lerner'"):
        exec(f"from palaestra.trainer import {name}")


def test_the_package_and_the_names_without_tensors_load_no_torch() -> None:
    code = (
        "import sys, palaestra.trainer; from palaestra.trainer import LearnerConfig, Recipe, load_recipe; "
        "early = 'torch' in sys.modules; from palaestra.trainer import Learner; "
        "print(early, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True"
