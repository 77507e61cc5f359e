"""Read and write run folders: settings, events, commands, heartbeat, checkpoints, history.

The folder is the only channel between a run and the programs that watch or steer it. This package does not load torch.
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
