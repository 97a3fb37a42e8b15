"""The seekable block-compressed codec, usable alone, like gzip or lzma."""
