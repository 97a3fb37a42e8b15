"""One file per command; parses arguments, calls floor 2, prints."""
