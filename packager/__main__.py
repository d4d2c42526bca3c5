"""Run the command line with `python -m packager`."""

import sys

from packager.cli import main

sys.exit(main())
