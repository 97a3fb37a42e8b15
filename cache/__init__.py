"""Chunk cache policy, background download, traces and prefetch."""
