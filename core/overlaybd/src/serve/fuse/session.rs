//! The life of a mount: from the first request to the unmounting, whoever does that.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use parking_lot::{Condvar, Mutex};

use super::files::{File, Files};
use super::mount::{self, Device};
use super::resume;
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::limits::{FUSE_MAX_IO, FUSE_MAX_THREADS};
use crate::serve::report::Report;

/// What can be set of a mount.
#[derive(Clone)]
pub struct Options {
    /// The most threads that carry out slow requests of one image.
    pub workers: usize,
    /// Lets other users in; what they may do is up to the files' permissions (0444 or 0644).
    pub allow_other: bool,
    /// Told of requests that a device failed.
    pub report: Option<Report>,
}

impl Default for Options {
    fn default() -> Self {
        Options { workers: 16, allow_other: false, report: None }
    }
}

/// A mounted directory and the threads that serve it. Dropping it stops it by force.
pub struct Mount(Arc<Place>);

/// Where something is mounted; unmounts it by force when dropped.
struct Place {
    directory: PathBuf,
    names: Vec<String>,
    device: Device,
    end: End,
}

/// How serving ended, once it has.
#[derive(Default)]
struct End {
    /// No more requests are taken; those under way may still be carried out.
    deaf: AtomicBool,
    outcome: Mutex<Option<io::Result<()>>>,
    reached: Condvar,
}

impl Mount {
    /// Mounts `files` (name, device) on the existing directory `directory`. Names are plain file names.
    ///
    /// Errors: `Invalid` and `Exists` for names that will not do or are double; `NotFound` without the
    /// directory; `Denied` where mounting is not allowed.
    pub fn start(files: Vec<(String, Arc<dyn BlockDevice>)>, directory: &Path, options: &Options) -> Result<Mount> {
        Mount::begin(files, directory, options, None, false)
    }

    /// As `start`, by a descriptor of `/dev/fuse`. A process that keeps a copy of it makes the mount outlive this one:
    /// requests wait until `resume` is given that copy. Where mounting takes a helper, the descriptor stays unused.
    pub fn start_on(
        files: Vec<(String, Arc<dyn BlockDevice>)>,
        directory: &Path,
        options: &Options,
        connection: OwnedFd,
    ) -> Result<Mount> {
        Mount::begin(files, directory, options, Some(connection), false)
    }

    /// Serves a mount whose server died, by a copy of its connection: what that one took and did not answer is asked
    /// again. The files must be the same.
    ///
    /// Errors: `Unsupported` before Linux 6.9; `Io` if it has been unmounted.
    pub fn resume(
        files: Vec<(String, Arc<dyn BlockDevice>)>,
        directory: &Path,
        options: &Options,
        connection: OwnedFd,
    ) -> Result<Mount> {
        Mount::begin(files, directory, options, Some(connection), true)
    }

    fn begin(
        files: Vec<(String, Arc<dyn BlockDevice>)>,
        directory: &Path,
        options: &Options,
        connection: Option<OwnedFd>,
        resumed: bool,
    ) -> Result<Mount> {
        let files = File::all(files, options)?;
        let failed = |e| Error::io("mounting FUSE", e).in_file(directory);
        let directory = fs::canonicalize(directory).map_err(failed)?;
        let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
        let mut config = Config::default();
        config.acl = acl;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        config.n_threads = Some(cpus.clamp(1, FUSE_MAX_THREADS));
        let filesystem = Files::new(files.clone(), options.allow_other);
        let placed = |directory: &Path| {
            let device = mount::device(directory).map_err(failed)?;
            let names = files.iter().map(|file| file.name().to_owned()).collect();
            Ok(Arc::new(Place { directory: directory.to_path_buf(), names, device, end: End::default() }))
        };
        let (place, session) = match connection {
            // What cannot be served now stays as it is, for another attempt.
            Some(connection) if resumed => {
                let session =
                    resume::session(filesystem, connection, acl, config).map_err(|e| e.in_file(&directory))?;
                (placed(&directory)?, session)
            }
            given => {
                let connection = mount::mount(&directory, options.allow_other, given)?;
                (placed(&directory)?, Session::from_fd(filesystem, connection, acl, config).map_err(failed)?)
            }
        };
        mount::set_readahead(place.device, FUSE_MAX_IO);
        let served = Arc::clone(&place);
        let serve = move || {
            let outcome = match session.run() {
                // A thread that was just about to ask the kernel for a request when the mount was forced to go.
                Err(e) if e.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
                outcome => outcome,
            };
            if let Err(e) = &outcome {
                served.give_up(e, &files);
            }
            served.end.deaf.store(true, Ordering::SeqCst);
            for file in files {
                file.pool.close();
            }
            *served.end.outcome.lock() = Some(outcome);
            served.end.reached.notify_all();
        };
        if let Err(e) = std::thread::Builder::new().name("fuse".into()).spawn(serve) {
            if resumed {
                std::mem::forget(place); // as above: else it is unmounted
            }
            return Err(failed(e));
        }
        Ok(Mount(place))
    }

    /// Where it is mounted, as an absolute path.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// Tells the kernel the sizes of devices that may have grown: it does not ask by itself.
    ///
    /// Errors: `Io`.
    pub fn grown(&self) -> Result<()> {
        self.0.names.iter().try_for_each(|name| mount::ask_size(&self.directory().join(name)))
    }

    /// Returns when the file system has been unmounted, by `stop` or from outside, and all requests have ended.
    ///
    /// Errors: `Io` if serving ended for another reason; then it has been unmounted by force.
    pub fn wait(&self) -> Result<()> {
        while !self.wait_for(Duration::from_secs(3600))? {}
        Ok(())
    }

    /// As `wait`, but for some time only; false if it goes on after that.
    pub fn wait_for(&self, time: Duration) -> Result<bool> {
        let mut outcome = self.0.end.outcome.lock();
        self.0.end.reached.wait_while_for(&mut outcome, |o| o.is_none(), time);
        match &*outcome {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(e)) => Err(Error::new(Kind::Io, format!("serving FUSE: {e}")).in_file(self.directory())),
        }
    }

    /// Unmounts and waits for the end. A file that is in use (a loop device counts) is an error with EBUSY, and
    /// nothing changes; with `force` the mount goes nevertheless, and whoever uses a file gets errors from then on.
    ///
    /// Errors: `Io` with EBUSY; those of `wait`.
    pub fn stop(&self, force: bool) -> Result<()> {
        self.0.unmount(force)?;
        self.wait()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        if self.0.unmount(true).is_ok() {
            let _ = self.wait();
        }
    }
}

impl Place {
    /// Unmounts, unless that has been done; never what someone else mounted here since.
    fn unmount(&self, force: bool) -> Result<()> {
        if !self.is_there() {
            return Ok(());
        }
        match mount::unmount(&self.directory, self.device, force) {
            Err(_) if !self.is_there() => Ok(()),
            done => done,
        }
    }

    fn is_there(&self) -> bool {
        mount::device(&self.directory).is_ok_and(|now| now == self.device)
            // Once serving has ended the number may have a new owner.
            && (!self.end.deaf.load(Ordering::SeqCst) || mount::is_dead(&self.directory))
    }

    /// Unmounts by force what a session failed to serve: for want of a thread, say. What is left of its threads may
    /// answer still, so that it looks like being served; without any, whoever uses it would wait for ever.
    fn give_up(&self, cause: &io::Error, files: &[Arc<File>]) {
        if self.is_there() {
            let _ = self.unmount(true); // an error would be that of `stop`
            for file in files {
                let what = format!("not served any more, since FUSE has failed ({cause}): attach or mount it again");
                file.tell(Error::new(Kind::Io, what).in_file(&self.directory));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.unmount(true);
    }
}
