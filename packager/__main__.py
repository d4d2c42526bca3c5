"""Run the command line with `python -m packager`."""

from packager.cli import main

main()
