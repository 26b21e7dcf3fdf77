//! ext3 file systems inside files, read and written here: the kernel never parses an image.
//!
//! A file system of its own kind is served by FUSE (`server.rs`) to one mount, which may be written if the file's
//! range is locked for it (`lock.rs`). Changes of structure are gathered in memory and committed through the
//! file system's own journal (`journal.rs`), so that a server killed at any moment leaves a file that is whole again
//! after its next use, here or anywhere else. Data goes straight to its blocks. Not here: ext4's extents, quotas,
//! access control lists, growing and shrinking.

pub mod directory;
pub mod file;
pub mod format;
pub mod journal;
pub mod lock;
pub mod make;
pub mod nodes;
pub mod request;
pub mod server;
pub mod volume;
pub mod xattr;

use std::fmt;

use rustix::io::Errno;

/// What went wrong: an error number for the caller of the file system, and why, for people.
#[derive(Debug)]
pub struct Error {
    pub errno: i32,
    pub why: &'static str,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn because(errno: i32, why: &'static str) -> Error {
        Error { errno, why }
    }
}

/// The file system contradicts itself.
pub fn corrupt(why: &'static str) -> Error {
    Error { errno: libc::EUCLEAN, why }
}

/// A refusal that is no fault of the file system.
pub fn refused(errno: i32) -> Error {
    Error { errno, why: "" }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error { errno: errno.raw_os_error(), why: "" }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => corrupt("the file is shorter than the file system in it"),
            _ => Error { errno: error.raw_os_error().unwrap_or(libc::EIO), why: "" },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.why.is_empty() {
            return write!(f, "{}", std::io::Error::from_raw_os_error(self.errno));
        }
        f.write_str(self.why)
    }
}
