"""What the scripts share, one question per file."""
