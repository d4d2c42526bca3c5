"""`python -m device_runtime`, and what a frozen program starts with."""

import sys

from device_runtime.cli import main

sys.exit(main())
