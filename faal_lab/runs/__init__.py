"""The run folder: all that is written and read back. The only bus between a run and whoever watches or steers it.

Knows: files, locks, checksums. Must not know: tensors' meaning, plots, how a run is carried out.
"""

from faal_lab.runs.checkpoint import Checkpoint, CheckpointError, is_foreign, read_checkpoint, write_checkpoint
from faal_lab.runs.control import CommandReader, send
from faal_lab.runs.folder import ENDED, RunFolder, RunFolderError, by_name, free_name
from faal_lab.runs.follower import Follower
from faal_lab.runs.lock import Heartbeat, RunLocked

__all__ = [
    "ENDED", "Checkpoint", "CheckpointError", "CommandReader", "Follower", "Heartbeat", "RunFolder", "RunFolderError",
    "RunLocked", "by_name", "free_name", "is_foreign", "read_checkpoint", "send", "write_checkpoint",
]  # fmt: skip
