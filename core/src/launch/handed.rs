//! The one descriptor of the caller's that goes into a container: the socket by which a process manager talks with a rank.
//!
//! PMI-1, as MPICH's hydra and its relatives speak it, names the socket in `PMI_FD`. The value is another one for every rank, so
//! it is no part of a plan.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::fs::FileType;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

const NAME: &str = "PMI_FD";

/// A socket that this process was started with.
#[derive(Clone, Copy)]
pub struct Handed(BorrowedFd<'static>);

/// Asked before anything else is opened: what is open by then and survives an `exec` is the caller's.
pub fn look() -> Option<Handed> {
    let number: RawFd = std::env::var(NAME).ok()?.parse().ok().filter(|number| *number > 2)?;
    // SAFETY: a number that nothing here owns or closes; if it is not open, the next call says so.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let inherited = fcntl_getfd(fd).ok()?.is_empty();
    let stat = rustix::fs::fstat(fd).ok()?;
    if !inherited || FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return None;
    }
    // Programs of the host that help with the launch have no business with it.
    fcntl_setfd(fd, FdFlags::CLOEXEC).ok()?;
    Some(Handed(fd))
}

impl Handed {
    /// Lets the payload have it, if its environment says which it is. Called right before it is executed.
    pub fn hand_on(self, variable: impl Fn(&str) -> Option<Vec<u8>>) {
        use std::os::fd::AsRawFd;
        if variable(NAME).is_some_and(|value| value == self.0.as_raw_fd().to_string().as_bytes()) {
            let _ = fcntl_setfd(self.0, FdFlags::empty());
        }
    }
}
