"""The bundle format and its installation; the one room that the host enters."""
