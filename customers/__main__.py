"""The command line: ``python -m customers COMMAND``."""

import sys

from customers.cli import main

sys.exit(main(sys.argv[1:]))
