//! An archive that Python hands over by descriptor: opened, read with progress to its end, and checked.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::progress::Progress;
use overlaybd::sys::os::OsFile;
use overlaybd::tar::{Archive, Compression, Input};
use overlaybd::zfile::{is_zfile, Reader};
use overlaybd::{Error, Kind, Result};

use crate::files::duplicate;

/// Told after each member where in the archive it is, and of its input.
pub type Tell<'a> = dyn FnMut(u64, &Input<'_>) -> Result<()> + 'a;

/// What is to be read, and how.
pub struct Job {
    pub source: RawFd,
    /// What the uncompressed bytes must have, in hex.
    pub sha256: Option<String>,
    /// Headers alone.
    pub imported: bool,
    /// Whether content is to be read from the archive later.
    pub turbo: bool,
}

impl Job {
    /// Has `work` read the members, reads the rest, and checks all.
    pub fn run<T>(
        &self,
        progress: &mut Progress<'_>,
        work: impl FnOnce(&mut Archive<Input<'_>>, &mut Tell<'_>) -> Result<T>,
    ) -> Result<T> {
        let (file, name) = duplicate(self.source)?;
        let stored = file.metadata().map_or(0, |metadata| metadata.len());
        let of_source = |e: Error| e.in_file(&name);
        let raw = if self.turbo { raw(file, &name)? } else { Box::new(file) };
        let progress = RefCell::new(progress);
        // Neither a pipe that says nothing nor a member that does not end keeps signals from being heard.
        let told = Cell::new((0, 0));
        let going_on = || {
            let (done, total) = told.get();
            (progress.borrow_mut())(done, total)
        };
        let input = Input::open(raw, self.sha256.is_some(), going_on).map_err(|e| of_source(Error::io("read", e)))?;
        let mut archive = if self.imported { Archive::of_headers(input) } else { Archive::new(input) };
        let mut tell = |at: u64, input: &Input<'_>| {
            if self.turbo && !self.imported && input.compression() == Some(Compression::Zstd) {
                let what = "compressed with zstd, so that it cannot be read from the middle: convert it wholly";
                return Err(Error::new(Kind::Unsupported, what));
            }
            // How long it is when it is unpacked is not known.
            let total = if input.is_compressed() { 0 } else { stored };
            let done = at.min(total.saturating_sub(1));
            told.set((done, total));
            (progress.borrow_mut())(done, total)
        };
        let done = work(&mut archive, &mut tell).map_err(of_source)?;
        if archive.input().is_checked() {
            archive.drain().map_err(of_source)?;
        }
        if let Some(wanted) = &self.sha256 {
            let sum = archive.input().digest().unwrap_or_default();
            let got = sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            if !got.eq_ignore_ascii_case(wanted) {
                let what = format!("sha256 checksum mismatch, expect: sha256:{wanted}, got: sha256:{got}");
                return Err(of_source(Error::corrupt(what)));
            }
        }
        Ok(done)
    }
}

/// The bytes of the archive: those inside, if the file is a zfile.
fn raw(file: File, name: &Path) -> Result<Box<dyn Read + Send>> {
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(Box::new(file));
    }
    let again = file.try_clone().map_err(|e| Error::io("open", e).in_file(name))?;
    let blob = Arc::new(FileBlob::new(Arc::new(OsFile::new(again, name)))?);
    if !is_zfile(&*blob)? {
        return Ok(Box::new(file));
    }
    Ok(Box::new(Bytes { blob: Reader::open(blob)?, at: 0 }))
}

/// A zfile, read from its start to its end.
struct Bytes {
    blob: Reader,
    at: u64,
}

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (self.blob.len() - self.at).min(buf.len() as u64) as usize;
        self.blob.read_at(&mut buf[..n], self.at).map_err(io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}
