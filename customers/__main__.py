"""The command line: ``python -m customers COMMAND``."""

import sys

try:
    from customers.cli.main import main
except ModuleNotFoundError as missing:
    print(f"The command line needs the package {missing.name}. Install it with: pip install '.[cli]'", file=sys.stderr)
    sys.exit(2)

sys.exit(main(sys.argv[1:]))
