"""Recordings to text: WAV files, spectrograms, and the rules and windows of Whisper."""
