"""What ends a run, in one paragraph for whoever started it.

RecipeError         what was asked for cannot be run (`recipe_file.py`)
DiskError           a file of the run cannot be written
CorruptCheckpoint   a checkpoint is not what was written
NothingGraded       nobody could play, or nobody could grade
Diverged            the weights are broken, or no gradient is finite any more
RankLost            another rank of the run has failed, or is gone
"""


class DiskError(Exception):
    """A file of the run cannot be written. The message names the file and the cure."""


class CorruptCheckpoint(ValueError):
    """A checkpoint is not what was written. The message names the file."""


class NothingGraded(Exception):
    """Steps in a row without a single number. The message names the stage that is broken."""


class Diverged(Exception):
    """An optimizer step broke the weights, which are neither published nor kept, or updates are only left
    out."""


class RankLost(Exception):
    """Another rank of the run has failed, or is gone. The message has its words."""
