//! The user's private directory on node-local storage: `$XDG_RUNTIME_DIR/soliton`, else `/tmp/soliton-UID`.
//!
//! What lies in it is trusted, so it is used only if it is a directory, this user's and closed to everybody else. It is
//! never reached through a link, and what is in it is reached by descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Who may do what in it.
const PRIVATE: u32 = 0o700;

pub struct Store {
    directory: OwnedFd,
}

/// Where it is, whether or not it exists. A runtime directory that is not this user's alone does not count.
pub fn path() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    if let Some(runtime) =
        std::env::var_os("XDG_RUNTIME_DIR").filter(|path| path.as_bytes().starts_with(b"/"))
        && rustix::fs::stat(&runtime).is_ok_and(|stat| is_private(&stat))
    {
        return PathBuf::from(runtime).join("soliton");
    }
    PathBuf::from(format!("/tmp/soliton-{uid}"))
}

fn is_private(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_mode & 0o077 == 0
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    open_at(CWD, path)
}

fn open_at(at: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(at, path, flags, Mode::empty())?;
    if is_private(&rustix::fs::fstat(&directory)?) { Ok(directory) } else { Err(Errno::PERM) }
}

impl Store {
    /// Opens it if it is there and fit to be trusted.
    pub fn open() -> Result<Store, Errno> {
        Ok(Store { directory: open(&path())? })
    }

    /// Opens it, made anew if it is not there.
    pub fn open_or_make() -> Result<Store, Errno> {
        let path = path();
        match open(&path) {
            Err(Errno::NOENT) => {}
            found => return Ok(Store { directory: found? }),
        }
        match rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(PRIVATE)) {
            Ok(()) | Err(Errno::EXIST) => Ok(Store { directory: open(&path)? }),
            Err(errno) => Err(errno),
        }
    }

    /// A directory of its own for one purpose, made anew if it is not there.
    pub fn folder(&self, name: &str) -> Result<Store, Errno> {
        let found = match open_at(self.directory(), name.as_ref()) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&self.directory, name, Mode::from_raw_mode(PRIVATE)) {
                    Ok(()) | Err(Errno::EXIST) => open_at(self.directory(), name.as_ref()),
                    Err(errno) => Err(errno),
                }
            }
            found => found,
        };
        Ok(Store { directory: found? })
    }

    /// The same directory by another descriptor, above the standard ones.
    pub fn duplicate(&self) -> Result<Store, Errno> {
        Ok(Store { directory: rustix::io::fcntl_dupfd_cloexec(&self.directory, 3)? })
    }

    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
