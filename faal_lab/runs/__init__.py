"""The run folder and everything in it: settings, events, commands, heartbeat, checkpoints, history.

It is the only bus between a run and whoever watches or steers it. Loads no torch.
"""

from faal_lab.errors import RunFolderError
from faal_lab.runs.checkpoint import Checkpoint, CheckpointError, is_foreign, read_checkpoint, write_checkpoint
from faal_lab.runs.control import CommandReader, send
from faal_lab.runs.folder import ENDED, RunFolder, by_name, free_name
from faal_lab.runs.follower import Follower
from faal_lab.runs.heartbeat import Heartbeat, RunLocked

__all__ = [
    "ENDED", "Checkpoint", "CheckpointError", "CommandReader", "Follower", "Heartbeat", "RunFolder", "RunFolderError",
    "RunLocked", "by_name", "free_name", "is_foreign", "read_checkpoint", "send", "write_checkpoint",
]  # fmt: skip
