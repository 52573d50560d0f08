"""The processes of a service that the tests started, and their memory."""

import re
from pathlib import Path


def app_process(leader: int) -> int:
    """The process that runs the app: the Python worker of Azure's Functions host, or the local host itself."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            session = (entry / "stat").read_text().rpartition(")")[2].split()[3]
            if int(session) == leader and b"worker.py" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    return leader


def memory(pid: int, *, peak: bool = False) -> int:
    """The memory that a process has, or the most that it had, in MiB (proc(5), VmRSS and VmHWM)."""
    found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // 1024 if found else 0
