"""The local Functions host as a placeholder: started, with nothing loaded of the app until stdin has a line.

So does Azure: it keeps workers that are started, and one of them loads the app when it is needed.
Usage: ``python -m tests.bench.placeholder --port PORT``; the line ``ready`` on stdout says that it waits.
"""

import sys

from infra.local import host

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    sys.exit(host.main())
