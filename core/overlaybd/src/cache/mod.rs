//! Chunk cache on disk.
