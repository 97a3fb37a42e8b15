//! From a path to the directory that it names: over symbolic links, inside the root, and what is missing is made.

use super::target::{Source, Target};
use super::Layer;
use crate::error::{Error, Kind, Result};
use crate::ext4::{DIR, LINK};
use crate::limits::{MAX_LINKS, MAX_PATH_PARTS};
use crate::tar::{shown, Archive, Entry, EntryKind};

/// What a path is walked for: something to be found; made, so that missing directories are too; or hidden, likewise,
/// unless this layer has put something else in the place of its directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    Find,
    Make,
    Hide,
}

impl<T: Target> Layer<'_, T> {
    /// The directory of a clean path, made if it is not there.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<T::Number> {
        if let Some((known, number)) = &self.last_parent {
            if known == path {
                return Ok(*number);
            }
        }
        let number = self.walk(path, Walk::Make)?.ok_or_else(|| not_there(path))?;
        self.last_parent = Some((path.to_vec(), number));
        Ok(number)
    }

    /// The directory of a clean path; None if it is not there and not to be made.
    pub(super) fn walk(&mut self, path: &[u8], how: Walk) -> Result<Option<T::Number>> {
        // From the root to where it is; what is still to be walked, the next part last.
        let mut above = vec![self.target.root()];
        let mut parts = parts(path);
        let (mut links, mut steps) = (0, 0);
        while let Some(part) = parts.pop() {
            steps += 1;
            if steps > MAX_PATH_PARTS {
                return Err(Error::new(Kind::Limit, "a path of too many parts"));
            }
            let here = above.last().copied().unwrap_or(self.target.root());
            match part.as_slice() {
                b"." => continue,
                b".." => {
                    above.truncate((above.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            match self.target.lookup(here, &part)? {
                Some((number, DIR)) => above.push(number),
                // Whiteouts are of what was below, not of where this layer leads.
                Some((_, LINK)) if how == Walk::Hide && self.is_unpacked(here, &part) => return Ok(None),
                Some((number, LINK)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::new(Kind::Invalid, "symbolic links that lead in circles"));
                    }
                    let target = self.target.read_link(number)?;
                    if target.starts_with(b"/") {
                        above.truncate(1);
                    }
                    parts.extend(self::parts(&target));
                }
                Some(_) if how == Walk::Hide => return Ok(None),
                Some(_) => {
                    let what = format!("{}: no directory, but something is to be below it", shown(&part));
                    return Err(Error::new(Kind::Invalid, what));
                }
                None if how != Walk::Find => above.push(self.make_parent(here, &part)?),
                None => return Ok(None),
            }
        }
        Ok(above.pop())
    }

    /// A directory that the archive does not have, but has something below.
    fn make_parent(&mut self, parent: T::Number, name: &[u8]) -> Result<T::Number> {
        let entry = Entry { kind: EntryKind::Directory, mode: 0o755, ..Entry::default() };
        self.target.create(parent, name, &entry, &mut Source::new(&mut Archive::new(&[][..]), 0, &mut []))
    }
}

/// The parts of a path, last first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty()).rev().map(<[u8]>::to_vec).collect()
}

pub(super) fn not_there(path: &[u8]) -> Error {
    Error::new(Kind::NotFound, format!("{}: not there", shown(path)))
}
