//! The directory in which servers are found: a name for each, a lock beside it, and what those leave who are killed.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{key, namespace};
use crate::store::Store;

const LOCK: &str = ".lock";

pub fn lock_of(name: &str) -> String {
    format!("{name}{LOCK}")
}

/// Names of servers of a job, of which some may have ended.
pub fn servers_of(store: &Store, job: &str) -> Vec<String> {
    let mut names: Vec<String> = names_in(store);
    names.retain(|name| {
        name.strip_prefix(job).is_some_and(|rest| rest.starts_with('-')) && !name.ends_with(LOCK)
    });
    names
}

fn names_in(store: &Store) -> Vec<String> {
    let Ok(entries) = rustix::fs::Dir::read_from(store.directory()) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    names.filter(|name| !name.starts_with('.')).collect()
}

/// The address of a socket: by descriptor, so that neither its length nor a rename matters.
pub fn address(store: &Store, name: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", store.directory().as_raw_fd()))
}

pub fn unix_socket(kind: SocketType) -> Result<OwnedFd, Errno> {
    socket_with(rustix::net::AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}

/// A lock that its holder's end, however it comes about, gives back. The file goes with the server.
pub struct Lock {
    file: OwnedFd,
}

impl Lock {
    pub fn take(store: &Store, name: &str) -> Result<Lock, Errno> {
        loop {
            let file = open(store, name)?;
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => continue,
                other => other?,
            }
            if is_at(&file, store.directory(), name) {
                return Ok(Lock { file });
            }
            // An ending server has removed it meanwhile.
        }
    }

    /// The same lock by another descriptor, above the standard ones: it is free when both are closed.
    pub fn duplicate(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.file, 3)
    }

    /// Takes it only if nobody has it or waits for it; `None` if somebody does.
    pub fn try_take(store: &Store, name: &str) -> Result<Option<Lock>, Errno> {
        let file = open(store, name)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            other => other?,
        }
        Ok(is_at(&file, store.directory(), name).then_some(Lock { file }))
    }
}

fn open(store: &Store, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(store.directory(), lock_of(name), flags, Mode::from_raw_mode(0o600))
}

/// Whether an open lock is still what the directory has for that name.
fn is_at(file: &OwnedFd, directory: BorrowedFd<'_>, name: &str) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::statat(directory, lock_of(name), AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(open), Ok(named)) => (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino),
        _ => false,
    }
}

/// Removes a server's name and its lock, which the caller has, then what is left of others that were killed, and of launches that
/// were, and the locks of jobs that nobody is in the midst of.
pub fn leave(store: &Store, own: &str, _lock: &Lock) {
    take_away(store, own);
    let names: BTreeSet<String> = names_in(store)
        .into_iter()
        .map(|name| name.strip_suffix(LOCK).unwrap_or(&name).to_owned())
        .filter(|name| name != own)
        .collect();
    for name in names.iter().filter(|name| !is_alive(store, name)) {
        if let Ok(Some(_lock)) = Lock::try_take(store, name)
            && !is_alive(store, name)
        {
            take_away(store, name);
        }
    }
}

fn take_away(store: &Store, name: &str) {
    for name in [name, &lock_of(name)] {
        let _ = rustix::fs::unlinkat(store.directory(), name, AtFlags::empty());
    }
}

/// Whether a server has this name.
fn is_alive(store: &Store, name: &str) -> bool {
    if key::is_without_image(name) {
        return !matches!(namespace::look(store, name), Ok(None));
    }
    // A connection of the wrong kind is refused by the kernel, which tells why; a server does not notice.
    let answer = unix_socket(SocketType::DGRAM).and_then(|socket| connect(&socket, &address(store, name)?));
    !matches!(answer, Err(Errno::CONNREFUSED | Errno::NOENT))
}
