"""The sections of a recipe, by what they are about; `recipe.py` puts them together.

    tasks.py     what is played, and who judges rows       learning.py  how weights move
    models.py    models, and the engine that samples       grpo.py      one step of reinforcement learning
    grading.py   grades off the rollout slots              watching.py  evaluations, checkpoints, trackers

A field has its range here, its meaning below it, and a line in docs/ where it needs more. What is wrong
between fields is refused in `recipe_file.py`; what is allowed and hardly meant is told by `lint.py`.
"""
