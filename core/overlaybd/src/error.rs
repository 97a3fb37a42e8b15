//! One error for the whole crate: a small stable kind to match on, and context for people to read.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What went wrong, coarse enough to decide on. Kinds are part of the public interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The disk, the network or a peer failed.
    Io,
    /// Bytes are there but are not what the format, a checksum or a digest says they must be.
    Corrupt,
    /// Well-formed, but a variant that this program does not handle.
    Unsupported,
    /// An offset or length outside the file or device, or not a multiple of the unit.
    OutOfBounds,
    /// The file or blob does not exist.
    NotFound,
    /// A number is above a limit of this program or of the format.
    Limit,
    /// A parameter given by the caller makes no sense.
    Invalid,
    /// Something of that name is there already.
    Exists,
    /// A write to something that is read-only.
    ReadOnly,
    /// A peer or the system refused access.
    Denied,
    /// No room left on the device that had to take the bytes.
    NoSpace,
    /// A deadline passed.
    TimedOut,
    /// The caller, or a signal, asked to stop.
    Interrupted,
    /// Somebody else is using it.
    Busy,
}

impl Kind {
    /// The name used in messages, in `--json` output and by the Python binding.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Io => "io",
            Kind::Corrupt => "corrupt",
            Kind::Unsupported => "unsupported",
            Kind::OutOfBounds => "out-of-bounds",
            Kind::NotFound => "not-found",
            Kind::Limit => "limit",
            Kind::Invalid => "invalid",
            Kind::Exists => "exists",
            Kind::ReadOnly => "read-only",
            Kind::Denied => "denied",
            Kind::NoSpace => "no-space",
            Kind::TimedOut => "timed-out",
            Kind::Interrupted => "interrupted",
            Kind::Busy => "busy",
        }
    }

    /// The kind of that [`Kind::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        use Kind::*;
        let all = [
            Io,
            Corrupt,
            Unsupported,
            OutOfBounds,
            NotFound,
            Limit,
            Invalid,
            Exists,
            ReadOnly,
            Denied,
            NoSpace,
            TimedOut,
            Interrupted,
            Busy,
        ];
        all.into_iter().find(|kind| kind.name() == name)
    }

    /// The errno that a kernel or a tool gets for this kind, when the cause carries none.
    pub fn errno(self) -> i32 {
        match self {
            Kind::Io | Kind::Corrupt => libc::EIO,
            Kind::Unsupported => libc::ENOTSUP,
            Kind::OutOfBounds | Kind::Invalid => libc::EINVAL,
            Kind::NotFound => libc::ENOENT,
            Kind::Limit => libc::E2BIG,
            Kind::Exists => libc::EEXIST,
            Kind::ReadOnly => libc::EROFS,
            Kind::Denied => libc::EACCES,
            Kind::NoSpace => libc::ENOSPC,
            Kind::TimedOut => libc::ETIMEDOUT,
            Kind::Interrupted => libc::EINTR,
            Kind::Busy => libc::EBUSY,
        }
    }
}

/// A failure: kind, where it happened, and why. `Display` is one line: `kind: file: at OFFSET: what: cause`.
///
/// The body is boxed so that `Result<()>` stays two words on the paths that run once per I/O.
pub struct Error(Box<Body>);

struct Body {
    kind: Kind,
    what: String,
    file: Option<PathBuf>,
    offset: Option<u64>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of nearly every function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A new error of `kind`; `what` says what failed, in a few words and without a full stop.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error(Box::new(Body { kind, what: what.into(), file: None, offset: None, cause: None }))
    }

    /// Shorthand for the commonest kind of a parser.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, what)
    }

    /// Wraps an [`io::Error`], choosing the kind by its errno.
    pub fn io(what: impl Into<String>, cause: io::Error) -> Self {
        let kind = match cause.raw_os_error() {
            Some(libc::ENOENT) => Kind::NotFound,
            Some(libc::EEXIST) => Kind::Exists,
            Some(libc::EACCES | libc::EPERM) => Kind::Denied,
            Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
            Some(libc::EROFS) => Kind::ReadOnly,
            Some(libc::ETIMEDOUT) => Kind::TimedOut,
            Some(libc::EINTR) => Kind::Interrupted,
            Some(libc::EINVAL) => Kind::Invalid,
            _ if cause.kind() == io::ErrorKind::TimedOut => Kind::TimedOut,
            _ => Kind::Io,
        };
        Self::new(kind, what).because(cause)
    }

    /// The same error once more, for another one who waited for the same thing.
    pub fn again(&self) -> Self {
        let mut copy = Self::new(self.kind(), self.what());
        copy.0.file = self.0.file.clone();
        copy.0.offset = self.0.offset;
        copy.0.cause = self.0.cause.as_ref().map(|cause| match cause.downcast_ref::<io::Error>() {
            Some(e) if e.raw_os_error().is_some() => io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(0)).into(),
            _ => cause.to_string().into(),
        });
        copy
    }

    /// Names the file (or blob) concerned; the innermost name wins.
    pub fn in_file(mut self, file: impl AsRef<Path>) -> Self {
        self.0.file.get_or_insert_with(|| file.as_ref().to_path_buf());
        self
    }

    /// Gives the byte offset in that file; the innermost offset wins.
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Attaches the error that led to this one.
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Puts a phrase before the message: `opening layer 3` before `bad magic`.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.0.what = format!("{doing}: {}", self.0.what);
        self
    }

    /// Puts a remark in brackets behind the message: `GET https://r/x: 401 (anonymous)`.
    pub fn note(mut self, remark: impl fmt::Display) -> Self {
        self.0.what = format!("{} ({remark})", self.0.what);
        self
    }

    /// The kind, to match on.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message alone, without kind, file, offset and cause.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// The file concerned, if known.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The byte offset concerned, if known.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The cause's text, if there is one.
    pub fn cause(&self) -> Option<String> {
        self.0.cause.as_ref().map(ToString::to_string)
    }

    /// The errno for a kernel or an exit path: that of an I/O cause where there is one, else the kind's.
    pub fn errno(&self) -> i32 {
        self.0
            .cause
            .as_ref()
            .and_then(|c| c.downcast_ref::<io::Error>())
            .and_then(io::Error::raw_os_error)
            .unwrap_or_else(|| self.kind().errno())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name())?;
        if let Some(file) = self.file() {
            write!(f, ": {}", file.display())?;
        }
        if let Some(offset) = self.offset() {
            write!(f, ": at {offset}")?;
        }
        write!(f, ": {}", self.what())?;
        if let Some(cause) = &self.0.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|c| c as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_kind_file_offset_and_cause() {
        let e =
            Error::io("short read", io::Error::from_raw_os_error(libc::EIO)).in_file("/l/a").at(512).context("opening");
        assert!(e.to_string().starts_with("io: /l/a: at 512: opening: short read: "), "{e}");
        assert_eq!((e.kind(), e.errno()), (Kind::Io, libc::EIO));
    }

    #[test]
    fn innermost_place_wins() {
        let e = Error::corrupt("x").in_file("inner").at(1).in_file("outer").at(2);
        assert_eq!((e.file(), e.offset()), (Some(Path::new("inner")), Some(1)));
    }
}
