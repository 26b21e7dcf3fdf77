//! The process behind a shared image: holds the user namespace and the mount, gives both to whoever connects, and detaches
//! the mount when nobody has come for a while and nobody is left who uses it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, SocketType, accept_with, bind, listen, recv};
use rustix::thread::UnshareFlags;

use super::folder::{Lock, address, leave, unix_socket};
use super::shapes::{LONGEST_WISH, Shapes};
use super::users::Users;
use super::{Beginning, Key, MOMENT, own_namespace, send};
use crate::fuse;
use crate::fuse::skeletons::Skeletons;
use crate::launch::kernel;
use crate::launch::session::Session;
use crate::plan::{Identity, ImageRoot};
use crate::squashfs::reader::Image;
use crate::store::Store;

/// Launches that may wait while one is answered.
const WAITING: i32 = 1024;
/// Launches that were answered and may still wish for a shape of the image; of more, the first ones have waited too long.
const MOST_GUESTS: usize = 1024;
/// Where the server's session must not be: the standard library looks for the number of processors there.
const NEEDED: [&str; 2] = ["/sys", "/proc"];

/// Serves until the last container has let go.
pub fn run(
    image: Image,
    root: &ImageRoot,
    user: &Identity,
    store: &Store,
    key: &Key,
    idle: u32,
    begun: Beginning<'_>,
) -> Result<(), Errno> {
    let begun = begun.keep()?;
    let store = store.duplicate()?;
    let mut kept = begun.descriptors();
    kept.extend([image.source().0.as_raw_fd(), store.directory().as_raw_fd()]);
    fuse::become_server(&kept);
    use_every_processor();
    begun.enter(user, UnshareFlags::NEWNS)?;
    let served = Served::start(image, root, user)?;
    let signals = kernel::signal_queue()?;
    let server = Server {
        door: Door::open(&store, &key.server)?,
        users: Users::new(own_namespace("user")?, Some(served.shapes.device()))?,
        guests: VecDeque::new(),
        served,
        store,
        key,
    };
    begun.announce();
    let Served { shapes, threads, .. } = server.keep(signals.as_fd(), idle);
    shapes.end().map_err(|failure| Errno::from_raw_os_error(failure.errno))?;
    // Containers may hold clones for as long as they like.
    let _ = threads.join();
    Ok(())
}

/// An image, mounted and served.
struct Served {
    shapes: Shapes,
    threads: JoinHandle<()>,
    /// The kernel has let go of the mount, by whatever means.
    gone: Arc<AtomicBool>,
}

impl Served {
    fn start(image: Image, root: &ImageRoot, user: &Identity) -> Result<Served, Errno> {
        let device = fuse::open_device().map_err(|error| error.errno)?;
        let mount =
            fuse::detached_mount(&device, &root.path.to_string(), false).map_err(|error| error.errno)?;
        let ids = fuse::ids(root.ids, user);
        // Before there are other threads, which inherit this: signals are for the one that keeps the door.
        kernel::block_signals(true);
        let gone = Arc::new(AtomicBool::new(false));
        let image = Arc::new(image);
        let skeletons = Arc::new(Skeletons::beside(&image, ids).map_err(|_| Errno::IO)?);
        let questions = Arc::default();
        let threads = {
            let (gone, image, skeletons) = (Arc::clone(&gone), Arc::clone(&image), Arc::clone(&skeletons));
            let questions = Arc::clone(&questions);
            std::thread::Builder::new().spawn(move || {
                fuse::serve_with(device, image, ids, skeletons, questions);
                gone.store(true, Ordering::Relaxed);
            })
        };
        let threads = threads.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        // After the threads are there: the image is looked into.
        let shapes = Session::start_but(&NEEDED)
            .and_then(|session| Shapes::of(mount, session, image, skeletons, questions));
        let shapes = shapes.map_err(|failure| Errno::from_raw_os_error(failure.errno))?;
        Ok(Served { shapes, threads, gone })
    }
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
    /// The lock is held, so what is there under this name is of a server that is no more.
    fn open(store: &Store, key: &str) -> Result<Door, Errno> {
        let _ = rustix::fs::unlinkat(store.directory(), key, AtFlags::empty());
        let listener = unix_socket(SocketType::STREAM)?;
        bind(&listener, &address(store, key)?)?;
        rustix::fs::chmodat(store.directory(), key, Mode::from_raw_mode(0o600), AtFlags::empty())?;
        listen(&listener, WAITING)?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        Ok(Door { listener })
    }
}

struct Server<'k> {
    door: Door,
    served: Served,
    users: Users,
    /// Who was answered and may still have a wish.
    guests: VecDeque<OwnedFd>,
    store: Store,
    key: &'k Key,
}

impl Server<'_> {
    /// Answers launches until for `idle` seconds none has come and nobody is left who came, until SIGTERM, or until the mount is
    /// gone. When it returns no launch finds this server any more; what it served is to be let go of.
    fn keep(mut self, signals: BorrowedFd<'_>, idle: u32) -> Served {
        let idle_time = Timespec { tv_sec: i64::from(idle), tv_nsec: 0 };
        let mut asked = false;
        let mut somebody_comes = false;
        loop {
            let mut entries =
                vec![PollFd::new(&self.door.listener, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
            entries.extend(self.guests.iter().map(|guest| PollFd::new(guest, PollFlags::IN)));
            let wait = match (somebody_comes, idle > 0 || self.guests.is_empty()) {
                (true, _) => Some(&MOMENT),
                (false, true) => Some(&idle_time),
                // Without any idle time those who have just come are waited for all the same.
                (false, false) => None,
            };
            let found = poll(&mut entries, wait);
            if found == Err(Errno::INTR) {
                continue;
            }
            asked |= self.served.gone.load(Ordering::Relaxed);
            while let Some(arrived) = kernel::next_signal(signals) {
                asked |= arrived.signal == libc::SIGTERM;
            }
            self.grant();
            if self.answer() && !asked {
                somebody_comes = false;
                continue;
            }
            if !asked && found != Ok(0) {
                continue;
            }
            // Without any idle time nothing is waited for.
            if !asked && (!self.guests.is_empty() || idle > 0 && self.users.are_left()) {
                somebody_comes = false;
                continue;
            }
            // Where the directory is gone, nobody can find this server any more.
            let Ok(held) = Lock::try_take(&self.store, &self.key.server) else { break };
            // Whoever holds the lock is about to connect.
            somebody_comes = held.is_none();
            if let Some(lock) = held {
                leave(&self.store, &self.key.server, &lock);
                // Those who found the door before it was taken away.
                self.answer();
                break;
            }
        }
        self.served
    }

    /// Answers everybody who waits, and notes them; whether there was anybody.
    fn answer(&mut self) -> bool {
        let mut any = false;
        while let Ok(client) = accept_with(&self.door.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            any = true;
            // A client that is gone, or a clone that cannot be made: it mounts for itself.
            let given = self.give(client.as_fd());
            if let Ok(who) = rustix::net::sockopt::socket_peercred(&client) {
                self.users.note(who.pid.as_raw_nonzero().get());
            }
            if given.is_ok() {
                self.guests.push_back(client);
            }
            if self.guests.len() > MOST_GUESTS {
                self.guests.pop_front();
            }
        }
        any
    }

    /// Sends the namespace and clones of the mount. Nothing is waited for: a stopped client keeps nobody waiting.
    fn give(&mut self, client: BorrowedFd<'_>) -> Result<(), Errno> {
        let shapes = &mut self.served.shapes;
        let (image, plain) = (shapes.image()?, shapes.plain());
        let mut descriptors = vec![self.users.namespace(), image.as_fd()];
        descriptors.extend(plain.as_ref().map(AsFd::as_fd));
        send(client, b"!", &descriptors)
    }

    /// Grants the wishes of those who have one, and forgets who has none any more.
    fn grant(&mut self) {
        let shapes = &mut self.served.shapes;
        self.guests.retain(|guest| {
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
}
