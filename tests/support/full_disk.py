"""A disk that is full: Python in a process of its own, where no file can be longer than so many bytes.

The system refuses the write that would go beyond (EFBIG), in the middle of a file, as it does on a full disk (ENOSPC).
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the system kills the process
most, script, *arguments = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
sys.path.insert(0, {root!r})
sys.dont_write_bytecode = True
sys.argv = [script, *arguments]
exec(script) if script.startswith("import ") else runpy.run_path(script, run_name="__main__")
"""


def on_a_full_disk(most_bytes: int, script: str | Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script, given as its path, relative to the repository, or as code that starts with an import."""
    limited = _LIMITED.format(root=str(ROOT))
    command = [sys.executable, "-c", limited, str(most_bytes), str(script), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def left(folder: Path) -> list[str]:
    """All files and folders in a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
