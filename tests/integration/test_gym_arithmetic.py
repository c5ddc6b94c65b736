"""The arithmetic environment, sandbox and all, as a Gymnasium environment."""

import gymnasium
from gymnasium.utils.env_checker import check_env

import palaestra.envs


def test_arithmetic_passes_gymnasiums_own_check() -> None:
    assert "arithmetic" in palaestra.envs.env_names()  # importing the package is what registers it
    env = gymnasium.make("palaestra/arithmetic-v0", size=5)
    try:
        check_env(env.unwrapped)
    finally:
        env.close()
