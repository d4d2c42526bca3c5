"""Releases on a device: installed, judged, committed or rolled back, removed."""
