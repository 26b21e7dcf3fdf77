//! The place a container is put together at: a small tmpfs over some directory of the host, seen by this
//! mount namespace only and gone once the container's root is entered.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::failure::{Context, Failure};
use super::trees;
use crate::text::Text;

/// Directories that a session may cover, the least needed first: nothing the reporter runs lives there.
const PLACES: [&str; 8] = ["/sys", "/mnt", "/media", "/srv", "/run", "/tmp", "/var", "/proc"];
/// Room for synthesized files: passwd and group of a large site fit.
const SIZE: u64 = 64 << 20;

pub struct Session {
    mount: OwnedFd,
    place: &'static str,
}

impl Session {
    /// Covers a directory. Everything wanted from the host has to be open by now.
    pub fn start() -> Result<Session, Failure> {
        Session::start_but(&[])
    }

    /// The same, but covers none of these.
    pub fn start_but(needed: &[&str]) -> Result<Session, Failure> {
        let mount = trees::tmpfs(SIZE, 0o755, trees::INERT).failed("mount", "tmpfs")?;
        let mut refusal = Errno::NOENT;
        for place in PLACES.into_iter().filter(|place| !needed.contains(place)) {
            match trees::attach_at(mount.as_fd(), CWD, place) {
                Ok(()) => return Ok(Session { mount, place }),
                Err(errno) => refusal = errno,
            }
        }
        Err(Failure::new("mount", "move_mount", refusal).at(&Text::from(PLACES[0])))
    }

    /// Makes a directory of the session and opens it (O_PATH).
    pub fn directory(&self, name: &str) -> Result<OwnedFd, Failure> {
        let made = rustix::fs::mkdirat(&self.mount, name, Mode::from_raw_mode(0o755));
        made.and_then(|()| self.open(name)).failed("mount", "mkdir")
    }

    fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.mount, name, flags, Mode::empty())
    }

    /// Attaches a mount at a new directory of the session.
    pub fn attach(&self, tree: BorrowedFd<'_>, name: &str) -> Result<(), Failure> {
        rustix::fs::mkdirat(&self.mount, name, Mode::from_raw_mode(0o755)).failed("mount", "mkdir")?;
        trees::attach_at(tree, self.mount.as_fd(), name).failed("mount", "move_mount")
    }

    /// Takes away what `attach` has put there, and the directory.
    pub fn detach(&self, name: &str) -> Result<(), Failure> {
        self.within(|| {
            rustix::mount::unmount(name, UnmountFlags::DETACH).failed("mount", "umount")?;
            rustix::fs::unlinkat(CWD, name, AtFlags::REMOVEDIR).failed("mount", "rmdir")
        })
    }

    /// A file of the session with this content, as a mount not attached yet.
    pub fn file(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<OwnedFd, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.mount, name, flags, Mode::from_raw_mode(mode))?;
        let mut rest = content;
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&file, rest)?..];
        }
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        trees::of_entry(self.mount.as_fd(), name)
    }

    /// The session itself, which whoever works in it needs open.
    pub fn mount(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// What is attached at a directory of the session, as a mount not attached yet.
    pub fn clone_of(&self, name: &str) -> Result<OwnedFd, Failure> {
        trees::of_entry(self.mount.as_fd(), name).failed("mount", "open_tree")
    }

    /// Does something while names of the session are short ones, relative to the working directory.
    pub fn within<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let here = rustix::fs::open(c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        rustix::process::fchdir(&self.mount).failed("mount", "fchdir")?;
        let done = work();
        // Whoever stood in a directory that is gone stands at the root from now on.
        let back = here.and_then(rustix::process::fchdir).or_else(|_| rustix::process::chdir(c"/"));
        done.and_then(|value| back.failed("mount", "fchdir").map(|()| value))
    }

    /// Absolute path of something in the session, for mount options.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    /// Uncovers the host's directory again.
    pub fn end(self) -> Result<(), Failure> {
        rustix::mount::unmount(self.place, UnmountFlags::DETACH).failed("mount", "umount")
    }
}
