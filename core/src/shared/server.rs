//! The process behind a shared image: holds the user namespace and the mount, gives both to whoever connects, and detaches
//! the mount when nobody has come for a while and nobody is left who uses it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, accept_with, bind, listen, sendmsg,
};
use rustix::thread::UnshareFlags;

use super::{Key, Lock, above_standard, address, lock_of, own_namespace, stream_socket};
use crate::fuse;
use crate::launch::{identity, kernel, trees};
use crate::plan::{Identity, ImageRoot};
use crate::squashfs::reader::Image;
use crate::store::Store;

/// Launches that may wait while one is answered.
const WAITING: i32 = 1024;
/// Of more clients than this, those that have ended are forgotten at once.
const MOST_CLIENTS: usize = 4096;
/// Directories that the mount may cover in the server's own mount namespace: nothing it opens by path lies there (the standard
/// library looks into /sys and /proc for the number of processors).
const PLACES: [&str; 7] = ["/mnt", "/media", "/srv", "/opt", "/boot", "/home", "/usr/local"];

/// Serves until the last container has let go, in `namespace` if the job has one already; writes a byte to `ready` once launches are answered.
#[allow(clippy::too_many_arguments, reason = "all of what the process holds")]
pub fn run(
    image: Image,
    root: &ImageRoot,
    user: &Identity,
    namespace: Option<OwnedFd>,
    store: &Store,
    key: &Key,
    idle: u32,
    ready: OwnedFd,
) -> Result<(), Errno> {
    let ready = above_standard(ready)?;
    let store = store.duplicate()?;
    let namespace = namespace.map(above_standard).transpose()?;
    let mut kept = vec![image.source().0.as_raw_fd(), ready.as_raw_fd(), store.directory().as_raw_fd()];
    kept.extend(namespace.iter().map(AsRawFd::as_raw_fd));
    fuse::become_server(&kept);
    use_every_processor();
    let joined = namespace.is_some_and(|there| identity::join(there.as_fd(), UnshareFlags::NEWNS).is_ok());
    if !joined {
        identity::enter_with(user, UnshareFlags::NEWNS).map_err(|_| Errno::PERM)?;
    }

    let device = fuse::open_device().map_err(|error| error.errno)?;
    let mount = fuse::detached_mount(&device, &root.path.to_string(), false).map_err(|error| error.errno)?;
    let ids = fuse::ids(root.ids, user);
    // Before there are other threads, which inherit this: signals are for the one that keeps the door.
    kernel::block_signals(true);
    let signals = kernel::signal_queue()?;
    let gone = Arc::new(AtomicBool::new(false));
    let serving = {
        let gone = Arc::clone(&gone);
        std::thread::Builder::new().spawn(move || {
            fuse::serve(device, image, ids);
            gone.store(true, Ordering::Relaxed);
        })
    };
    let serving = serving.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
    let place = PLACES.into_iter().find(|place| trees::attach_at(mount.as_fd(), CWD, *place).is_ok());
    let place = place.ok_or(Errno::NOENT)?;
    drop(mount);

    let listener = Door::open(store.directory(), &key.server)?;
    let namespace = own_namespace("user")?;
    let _ = rustix::io::write(&ready, b"!");
    drop(ready);
    keep(&listener, namespace.as_fd(), signals.as_fd(), place, idle, &store, key, &gone);
    unmount(place, UnmountFlags::DETACH)?;
    drop((listener, namespace, store));
    // Containers may hold clones for as long as they like.
    let _ = serving.join();
    Ok(())
}

/// Whether anybody who came still uses the image: a job that runs for hours goes on sharing with what it starts later. It is
/// those who asked (`clients`), and whoever has the mount, in the namespace that servers of other images may share.
fn is_joined(namespace: BorrowedFd<'_>, place: &str, clients: &mut Vec<i32>) -> bool {
    let (Ok(own), Ok(mount), Ok(entries)) =
        (rustix::fs::fstat(namespace), rustix::fs::stat(place), std::fs::read_dir("/proc"))
    else {
        return false;
    };
    let this = std::process::id() as i32;
    let device =
        format!(" {}:{} ", rustix::fs::major(mount.st_dev), rustix::fs::minor(mount.st_dev)).into_bytes();
    let inside: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            *pid != this
                && rustix::fs::stat(format!("/proc/{pid}/ns/user"))
                    .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (own.st_dev, own.st_ino))
        })
        .collect();
    clients.retain(|pid| inside.contains(pid));
    let shows = |text: Vec<u8>| text.windows(device.len()).any(|part| part == device);
    !clients.is_empty()
        || inside.iter().any(|pid| std::fs::read(format!("/proc/{pid}/mountinfo")).is_ok_and(shows))
}

/// The first rank of a job may be bound to one processor; its server works for all of them.
fn use_every_processor() {
    let mut all = rustix::thread::CpuSet::new();
    for cpu in 0..rustix::thread::CpuSet::MAX_CPU {
        all.set(cpu);
    }
    let _ = rustix::thread::sched_setaffinity(None, &all);
}

/// The socket at which launches are answered.
struct Door {
    listener: OwnedFd,
}

impl Door {
    /// The caller holds the lock, so what is there under this name is of a server that is no more.
    fn open(directory: BorrowedFd<'_>, key: &str) -> Result<Door, Errno> {
        let _ = rustix::fs::unlinkat(directory, key, AtFlags::empty());
        let listener = stream_socket()?;
        bind(&listener, &address(directory, key)?)?;
        rustix::fs::chmodat(directory, key, Mode::from_raw_mode(0o600), AtFlags::empty())?;
        listen(&listener, WAITING)?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        Ok(Door { listener })
    }

    /// Answers everybody who waits, and notes them; whether there was anybody.
    fn answer(&self, namespace: BorrowedFd<'_>, place: &str, clients: &mut Vec<i32>) -> bool {
        let mut any = false;
        while let Ok(client) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            any = true;
            if let Ok(who) = rustix::net::sockopt::socket_peercred(&client) {
                clients.push(who.pid.as_raw_nonzero().get());
            }
            if clients.len() >= MOST_CLIENTS {
                clients.retain(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
            }
            // A client that is gone, or a clone that cannot be made: it mounts for itself.
            let _ = give(client.as_fd(), namespace, place);
        }
        any
    }
}

/// Sends the namespace and a clone of the mount. Nothing is read: a stopped client keeps nobody waiting.
fn give(client: BorrowedFd<'_>, namespace: BorrowedFd<'_>, place: &str) -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(CWD, place, flags)?;
    let descriptors = [namespace, clone.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(client, &[std::io::IoSlice::new(b"!")], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Answers launches until for `idle` seconds none has come and nobody is left who came, until SIGTERM, or until the mount is gone. When it returns no
/// launch finds this server any more.
#[allow(clippy::too_many_arguments, reason = "all of what the process holds")]
fn keep(
    door: &Door,
    namespace: BorrowedFd<'_>,
    signals: BorrowedFd<'_>,
    place: &str,
    idle: u32,
    store: &Store,
    key: &Key,
    gone: &AtomicBool,
) {
    let limit = Timespec { tv_sec: i64::from(idle), tv_nsec: 0 };
    let lock = lock_of(&key.server);
    let mut asked = false;
    let mut clients = Vec::new();
    loop {
        let mut entries = [PollFd::new(&door.listener, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        let found = poll(&mut entries, Some(&limit));
        if found == Err(Errno::INTR) {
            continue;
        }
        asked |= gone.load(Ordering::Relaxed);
        while let Some(arrived) = kernel::next_signal(signals) {
            asked |= arrived.signal == libc::SIGTERM;
        }
        let served = door.answer(namespace, place, &mut clients);
        if served && !asked {
            continue;
        }
        if !asked && found != Ok(0) {
            continue;
        }
        // Without any idle time nothing is waited for.
        if !asked && idle > 0 && is_joined(namespace, place, &mut clients) {
            continue;
        }
        // Whoever holds the lock is about to connect. Where the directory is gone, nobody can find this server any more.
        let Ok(held) = Lock::try_take(store, &lock) else { return };
        let Some(_held) = held else { continue };
        let _ = rustix::fs::unlinkat(store.directory(), &key.server, AtFlags::empty());
        let _ = rustix::fs::unlinkat(store.directory(), &lock, AtFlags::empty());
        let job = lock_of(&key.job);
        if let Ok(Some(_held)) = Lock::try_take(store, &job) {
            let _ = rustix::fs::unlinkat(store.directory(), &job, AtFlags::empty());
        }
        // Those who found the door before it was taken away.
        door.answer(namespace, place, &mut clients);
        return;
    }
}
