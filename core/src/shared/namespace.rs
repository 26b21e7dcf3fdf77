//! The user namespace of a job, held by a process that does nothing else, for containers without a shared image.
//!
//! They are found by a link that names the process and its namespace: whoever starts a container enters that straight from /proc
//! and asks nobody, so that a start costs no more than one with a namespace of its own.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use super::folder::{Lock, leave};
use super::users::Users;
use super::{Beginning, MOMENT, own_namespace};
use crate::fuse;
use crate::launch::kernel;
use crate::plan::Identity;
use crate::store::Store;

/// Opens the namespace if somebody holds it under this name. An error: nobody may look there.
pub fn look(store: &Store, name: &str) -> Result<Option<OwnedFd>, Errno> {
    let Ok(target) = rustix::fs::readlinkat(store.directory(), name, Vec::new()) else { return Ok(None) };
    let Some((process, inode)) = target.to_str().ok().and_then(|text| text.split_once(':')) else {
        return Ok(None);
    };
    let (Ok(process), Ok(inode)) = (process.parse::<u32>(), inode.parse::<u64>()) else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = match rustix::fs::open(format!("/proc/{process}/ns/user"), flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
        other => other?,
    };
    // The number may have gone to another process.
    if rustix::fs::fstat(&namespace)?.st_ino != inode {
        return Ok(None);
    }
    Ok(Some(namespace))
}

/// The same by who comes in, for whom the holder waits.
pub fn find(store: &Store, name: &str) -> Result<Option<OwnedFd>, Errno> {
    let found = look(store, name)?;
    if found.is_some() {
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        let _ = rustix::fs::utimensat(store.directory(), name, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
    Ok(found)
}

/// Holds the namespace until for `idle` seconds nobody has come and nobody is left, or until SIGTERM.
pub fn hold(
    user: &Identity,
    store: &Store,
    name: &str,
    idle: u32,
    begun: Beginning<'_>,
) -> Result<(), Errno> {
    let begun = begun.keep()?;
    let store = store.duplicate()?;
    let mut kept = begun.descriptors();
    kept.push(store.directory().as_raw_fd());
    fuse::become_server(&kept);
    let _ = rustix::thread::set_name(c"soliton-ranks");
    // No mount namespace of its own: it would keep the host's mounts busy.
    begun.enter(user, UnshareFlags::empty())?;
    kernel::block_signals(true);
    let signals = kernel::signal_queue()?;
    let namespace = own_namespace("user")?;
    let target = format!("{}:{}", std::process::id(), rustix::fs::fstat(&namespace)?.st_ino);
    let mut users = Users::new(namespace, None)?;
    // The lock is held, so what is there is of a process that is no more.
    let _ = rustix::fs::unlinkat(store.directory(), name, AtFlags::empty());
    rustix::fs::symlinkat(&target, store.directory(), name)?;
    begun.announce();

    let mut wait = idle_time(idle);
    loop {
        let found = poll(&mut [PollFd::new(&signals, PollFlags::IN)], Some(&wait));
        let mut asked = false;
        while let Some(arrived) = kernel::next_signal(signals.as_fd()) {
            asked |= arrived.signal == libc::SIGTERM;
        }
        if !asked && (found != Ok(0) || is_fresh(&store, name, idle) || users.are_left()) {
            wait = idle_time(idle);
            continue;
        }
        // Where the directory is gone, nobody can find this process any more.
        match Lock::try_take(&store, name)? {
            Some(lock) => {
                leave(&store, name, &lock);
                return Ok(());
            }
            // Whoever has the lock is about to come in.
            None => wait = MOMENT,
        }
    }
}

fn idle_time(seconds: u32) -> Timespec {
    Timespec { tv_sec: i64::from(seconds), tv_nsec: 0 }
}

/// Whether somebody has come within the idle time.
fn is_fresh(store: &Store, name: &str, idle: u32) -> bool {
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    rustix::fs::statat(store.directory(), name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|link| (0..i64::from(idle)).contains(&(now - link.st_mtime)))
}
