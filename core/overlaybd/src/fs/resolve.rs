//! Paths: from the root to a file, over symbolic links, which may lead in circles.

use super::{FileSystem, Node, Type};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_LINKS, MAX_PATH_PARTS};

impl FileSystem {
    /// The file at a path from the root, whether it begins with a slash or not. Symbolic links are followed, the last
    /// one too; they cannot leave the image.
    ///
    /// # Errors
    /// `NotFound`; `Limit` for links that lead in circles; those of [`FileSystem::entries`].
    pub fn resolve(&self, path: &[u8]) -> Result<Node> {
        self.find(path, true)
    }

    /// As [`FileSystem::resolve`]; without `follow` a symbolic link at the end is what is found, unless a slash follows
    /// it.
    ///
    /// # Errors
    /// As there.
    pub fn find(&self, path: &[u8], follow: bool) -> Result<Node> {
        let root = self.root()?;
        let follow = follow || path.ends_with(b"/");
        self.walk(&[root], path, follow).map(|mut nodes| nodes.pop())?.ok_or_else(nothing)
    }

    /// As [`FileSystem::resolve`], from the last of `base` on, which leads there from the root. The result leads from
    /// the root to the file.
    ///
    /// # Errors
    /// As there.
    pub fn resolve_from(&self, base: &[Node], path: &[u8]) -> Result<Vec<Node>> {
        self.walk(base, path, true)
    }

    fn walk(&self, base: &[Node], path: &[u8], follow: bool) -> Result<Vec<Node>> {
        let mut nodes = base.to_vec();
        // What is still to be walked, the next part last.
        let mut parts: Vec<Vec<u8>> = split(path);
        let (mut links, mut steps) = (0, 0);
        while let Some(part) = parts.pop() {
            steps += 1;
            if steps > MAX_PATH_PARTS {
                return Err(Error::new(Kind::Limit, "a path of too many parts"));
            }
            if part == b"." {
                continue;
            }
            if part == b".." {
                nodes.truncate((nodes.len() - 1).max(1));
                continue;
            }
            let node = self.lookup(nodes.last().ok_or_else(nothing)?, &part).map_err(|e| match e.kind() {
                Kind::Invalid => nothing(),
                _ => e,
            })?;
            if node.kind() != Type::Link || (!follow && parts.is_empty()) {
                nodes.push(node);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::new(Kind::Limit, "symbolic links that lead in circles"));
            }
            let target = self.read_link(&node)?;
            if target.starts_with(b"/") {
                nodes.truncate(1);
            }
            parts.extend(split(&target));
        }
        Ok(nodes)
    }
}

/// The parts of a path, last first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty()).rev().map(<[u8]>::to_vec).collect()
}

fn nothing() -> Error {
    Error::new(Kind::NotFound, "no such file in the image")
}
