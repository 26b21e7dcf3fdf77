//! The process behind a shared image: holds the user namespace and the mount, gives both to whoever connects, and detaches
//! the mount when nobody has come for a while and nobody is left who uses it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, bind, listen, recv};
use rustix::thread::UnshareFlags;

use super::shapes::{LONGEST_WISH, Shapes};
use super::{Key, Lock, above_standard, address, lock_of, own_namespace, send, stream_socket};
use crate::fuse;
use crate::launch::session::Session;
use crate::launch::{identity, kernel};
use crate::plan::{Identity, ImageRoot};
use crate::squashfs::reader::Image;
use crate::store::Store;

/// Launches that may wait while one is answered.
const WAITING: i32 = 1024;
/// Of more clients than this, those that have ended are forgotten at once.
const MOST_CLIENTS: usize = 4096;
/// Launches that were answered and may still wish for a shape of the image; of more, the first ones have waited too long.
const MOST_GUESTS: usize = 1024;
/// Where the server's session must not be: the standard library looks for the number of processors there.
const NEEDED: [&str; 2] = ["/sys", "/proc"];

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
    // After the threads are there: the image is looked into.
    let shapes = Session::start_but(&NEEDED).and_then(|session| Shapes::of(mount, session));
    let mut shapes = shapes.map_err(|failure| Errno::from_raw_os_error(failure.errno))?;

    let listener = Door::open(store.directory(), &key.server)?;
    let namespace = own_namespace("user")?;
    let _ = rustix::io::write(&ready, b"!");
    drop(ready);
    keep(&listener, namespace.as_fd(), signals.as_fd(), &mut shapes, idle, &store, key, &gone);
    shapes.end().map_err(|failure| Errno::from_raw_os_error(failure.errno))?;
    drop((listener, namespace, store));
    // Containers may hold clones for as long as they like.
    let _ = serving.join();
    Ok(())
}

/// Whether anybody who came still uses the image: a job that runs for hours goes on sharing with what it starts later. It is
/// those who asked (`clients`), and whoever has the mount, in the namespace that servers of other images may share.
fn is_joined(namespace: BorrowedFd<'_>, shapes: &Shapes, clients: &mut Vec<i32>) -> bool {
    let (Ok(own), Ok(entries)) = (rustix::fs::fstat(namespace), std::fs::read_dir("/proc")) else {
        return false;
    };
    let this = std::process::id() as i32;
    let devices: Vec<Vec<u8>> = shapes
        .mounts()
        .filter_map(|mount| rustix::fs::fstat(mount).ok())
        .map(|stat| format!(" {}:{} ", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)).into())
        .collect();
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
    let shows = |text: Vec<u8>| {
        devices.iter().any(|device| text.windows(device.len()).any(|part| part == device.as_slice()))
    };
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
    fn answer(
        &self,
        namespace: BorrowedFd<'_>,
        shapes: &mut Shapes,
        clients: &mut Vec<i32>,
        guests: &mut VecDeque<OwnedFd>,
    ) -> bool {
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
            if give(client.as_fd(), namespace, shapes).is_ok() {
                guests.push_back(client);
            }
            if guests.len() > MOST_GUESTS {
                guests.pop_front();
            }
        }
        any
    }
}

/// Sends the namespace and clones of the mount. Nothing is waited for: a stopped client keeps nobody waiting.
fn give(client: BorrowedFd<'_>, namespace: BorrowedFd<'_>, shapes: &mut Shapes) -> Result<(), Errno> {
    let (image, plain) = (shapes.image()?, shapes.get(&[]));
    let descriptors: Vec<_> = [Some(namespace), Some(image.as_fd()), plain.as_ref().map(AsFd::as_fd)]
        .into_iter()
        .flatten()
        .collect();
    send(client, b"!", &descriptors)
}

/// Grants the wishes of those who have one, and forgets who has none any more.
fn grant(guests: &mut VecDeque<OwnedFd>, shapes: &mut Shapes) {
    guests.retain(|guest| {
        let mut wish = [0; LONGEST_WISH];
        // A launch sends all of it at once.
        match recv(guest, wish.as_mut_slice(), RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Ok((length, _)) if length > 0 => {
                // Without a descriptor it goes on with the image as it is.
                let shape = shapes.get(&wish[..length]);
                let _ = send(guest.as_fd(), b"!", &Vec::from_iter(shape.as_ref().map(AsFd::as_fd)));
            }
            _ => {}
        }
        false
    });
}

/// Answers launches until for `idle` seconds none has come and nobody is left who came, until SIGTERM, or until the mount is gone. When it returns no
/// launch finds this server any more.
#[allow(clippy::too_many_arguments, reason = "all of what the process holds")]
fn keep(
    door: &Door,
    namespace: BorrowedFd<'_>,
    signals: BorrowedFd<'_>,
    shapes: &mut Shapes,
    idle: u32,
    store: &Store,
    key: &Key,
    gone: &AtomicBool,
) {
    let limit = Timespec { tv_sec: i64::from(idle), tv_nsec: 0 };
    let lock = lock_of(&key.server);
    let mut asked = false;
    let mut clients = Vec::new();
    let mut guests = VecDeque::new();
    loop {
        let mut entries =
            vec![PollFd::new(&door.listener, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        entries.extend(guests.iter().map(|guest| PollFd::new(guest, PollFlags::IN)));
        // Without any idle time those who have just come are waited for all the same.
        let found = poll(&mut entries, Some(&limit).filter(|_| idle > 0 || guests.is_empty()));
        if found == Err(Errno::INTR) {
            continue;
        }
        asked |= gone.load(Ordering::Relaxed);
        while let Some(arrived) = kernel::next_signal(signals) {
            asked |= arrived.signal == libc::SIGTERM;
        }
        grant(&mut guests, shapes);
        let served = door.answer(namespace, shapes, &mut clients, &mut guests);
        if served && !asked {
            continue;
        }
        if !asked && found != Ok(0) {
            continue;
        }
        // Without any idle time nothing is waited for.
        if !asked && (!guests.is_empty() || idle > 0 && is_joined(namespace, shapes, &mut clients)) {
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
        door.answer(namespace, shapes, &mut clients, &mut guests);
        return;
    }
}
