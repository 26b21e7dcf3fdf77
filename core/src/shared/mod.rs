//! The shared image server: an image is mounted once per node, user and job, and every launch of the same kind joins.
//!
//! A server ([`server`]) lives in a user namespace of its own, with the image mounted in it. A launch that finds it gets two
//! descriptors: the user namespace to enter, and clones of the mount, one of them in the shape that it needs ([`shapes`]), to attach wherever it likes. So containers of one job
//! share what is decompressed and cached, and sit in one user namespace, which is what cross-memory attach asks for
//! (ptrace(2), "Ptrace access mode checking"). Nothing is counted: a server with nobody in its user namespace detaches its own mount
//! after the idle time, and lives on only as long as somebody holds a clone.
//!
//! Servers of other images in the same job sit in the same user namespace, so what is said of ranks holds where they run different
//! programs from different images.
//!
//! Whoever finds no server starts one; a lock makes the others wait for it instead of starting theirs. Nothing here has
//! a time limit, and nothing here fails a launch: where sharing cannot be had, the launch mounts for itself.

mod key;
mod server;
mod shapes;

use key::Key;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use rustix::thread::UnshareFlags;

use crate::launch::kernel::{self, Forked};
use crate::launch::mounts::Missing;
use crate::launch::root::OpenImage;
use crate::plan::{Capabilities, Namespace, Plan, Root};
use crate::squashfs::reader::Image;
use crate::store::Store;

/// Where the servers' sockets are, below the user's private directory.
const FOLDER: &str = "mounts";
/// Descriptors in one answer of a server's.
const MOST_DESCRIPTORS: usize = 3;

/// What a launch takes over from the server.
pub struct Joined {
    pub user_namespace: OwnedFd,
    /// The image as a mount that is attached nowhere.
    pub tree: OwnedFd,
    pub shapes: Shaper,
}

/// What of the server a launch can have instead of the image as it is, before it lets go of it.
pub struct Shaper {
    /// The image under an overlay that adds nothing, where the kernel has given the server one.
    plain: Option<OwnedFd>,
    socket: OwnedFd,
}

impl Shaper {
    /// The image with these mount points in it, as a mount that is attached nowhere; None where it is to be had as it is only.
    pub fn shape(mut self, missing: &[Missing]) -> Option<OwnedFd> {
        let plain = self.plain.take()?;
        if missing.is_empty() {
            return Some(plain);
        }
        send(self.socket.as_fd(), &shapes::wish(missing)?, &[]).ok()?;
        receive(self.socket.as_fd())?.pop()
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        // Processes that were forked meanwhile have the socket too, and the server is not to wait for them.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}

/// Finds or starts the server for a plan's image, which is `open`. `None`: the launch is on its own.
///
/// The caller must have one thread and be outside the plan's namespaces.
pub fn join(plan: &Plan, open: Option<&OpenImage>) -> Option<Joined> {
    let sharing = plan.sharing?;
    let (Root::Image(image), Some(open)) = (&plan.root, open) else { return None };
    // A network that another namespace owns is entered by that one; one that a helper connects is left to this launch.
    // So is a user namespace with a property of its own.
    let own = plan.netns.is_some() || plan.helper.is_some() || plan.identity.keep_groups;
    // Who is root inside and sees the host's processes could reach the host's files through the server.
    let looks = plan.process.capabilities != Capabilities::None && !plan.has(Namespace::Pid);
    if own || looks || plan.identity.uid_map.is_empty() || has_limits() {
        return None;
    }
    let key = key::of(&plan.identity, image, &open.status)?;
    let store = Store::open_or_make().ok()?.folder(FOLDER).ok()?;
    if let Some(joined) = connect_to(&store, &key.server) {
        return Some(joined);
    }
    let lock = Lock::take(&store, &lock_of(&key.server)).ok()?;
    // Somebody else may have started it meanwhile.
    if let Some(joined) = connect_to(&store, &key.server) {
        return Some(joined);
    }
    start(&open.file, plan, &store, &key, sharing.idle)?;
    // A server takes its door away under this lock only: whoever started it comes in, however short its idle time is.
    let joined = connect_to(&store, &key.server);
    drop(lock);
    joined
}

fn lock_of(name: &str) -> String {
    format!("{name}.lock")
}

/// The user namespace of the job, if a server of another image holds it.
fn namespace_of(store: &Store, job: &str) -> Option<OwnedFd> {
    let entries = rustix::fs::Dir::read_from(store.directory()).ok()?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    names
        .filter(|name| {
            name.starts_with(job) && name[job.len()..].starts_with('-') && !name.ends_with(".lock")
        })
        .find_map(|name| connect_to(store, &name))
        .map(|joined| joined.user_namespace)
}

/// Whether this process may use only so much of the processor or of memory: its server would die of that, and with it
/// the file system of containers that have no such limits.
fn has_limits() -> bool {
    use rustix::process::{Resource, getrlimit};
    [Resource::Cpu, Resource::As, Resource::Data].into_iter().any(|what| getrlimit(what).maximum.is_some())
}

/// The address of a socket in the store: by descriptor, so that neither its length nor a rename matters.
fn address(directory: BorrowedFd<'_>, key: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{key}", directory.as_raw_fd()))
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    socket_with(rustix::net::AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Asks a running server. It answers at once with the namespace, the image, and its plain shape if it has that.
fn connect_to(store: &Store, key: &str) -> Option<Joined> {
    let socket = stream_socket().ok()?;
    connect(&socket, &address(store.directory(), key).ok()?).ok()?;
    // None: it ended while the connection waited.
    let mut descriptors = receive(socket.as_fd())?.into_iter();
    let (user_namespace, tree) = (descriptors.next()?, descriptors.next()?);
    Some(Joined { user_namespace, tree, shapes: Shaper { plain: descriptors.next(), socket } })
}

/// Sends bytes and descriptors at once.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(socket, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// What a server answers; None if it is no more.
fn receive(socket: BorrowedFd<'_>) -> Option<Vec<OwnedFd>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut byte)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other.ok()?,
        }
    };
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    (received.bytes == 1).then_some(descriptors)
}

/// A lock that its holder's end, however it comes about, gives back. The file goes with the server.
struct Lock {
    _file: OwnedFd,
}

impl Lock {
    fn take(store: &Store, name: &str) -> Result<Lock, Errno> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let file = rustix::fs::openat(store.directory(), name, flags, Mode::from_raw_mode(0o600))?;
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => continue,
                other => other?,
            }
            if is_at(&file, store.directory(), name) {
                return Ok(Lock { _file: file });
            }
            // An ending server has removed it meanwhile.
        }
    }

    /// Takes it only if nobody has it or waits for it; `None` if somebody does.
    fn try_take(store: &Store, name: &str) -> Result<Option<Lock>, Errno> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(store.directory(), name, flags, Mode::from_raw_mode(0o600))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            other => other?,
        }
        Ok(is_at(&file, store.directory(), name).then_some(Lock { _file: file }))
    }
}

/// Whether an open file is still what the directory has under that name.
fn is_at(file: &OwnedFd, directory: BorrowedFd<'_>, name: &str) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(open), Ok(named)) => (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino),
        _ => false,
    }
}

/// Starts a server and waits until it answers, or has ended without.
fn start(file: &Arc<File>, plan: &Plan, store: &Store, key: &Key, idle: u32) -> Option<()> {
    let Root::Image(root) = &plan.root else { return None };
    // Not in the child: what is read here is read once even where the image turns out to be none.
    let image = Image::open(Arc::clone(file), root.offset, root.size).ok()?;
    // Held while it is settled which user namespace is the job's; the image, which may be slow to come, has been opened before.
    let _job = Lock::take(store, &lock_of(&key.job)).ok()?;
    let namespace = namespace_of(store, &key.job);
    let (ours, theirs) = UnixStream::pair().ok()?;
    match kernel::fork_unseen(UnshareFlags::empty()).ok()? {
        Forked::Child => {
            drop(ours);
            let ready = OwnedFd::from(theirs);
            kernel::exit_now(
                match server::run(image, root, &plan.identity, namespace, store, key, idle, ready) {
                    Ok(()) => 0,
                    Err(_) => 1,
                },
            )
        }
        Forked::Parent(_) => {
            drop(theirs);
            let mut byte = [0];
            loop {
                match rustix::io::read(&ours, &mut byte) {
                    Err(Errno::INTR) => {}
                    Ok(1) => return Some(()),
                    _ => return None,
                }
            }
        }
    }
}

/// The descriptor of this process's own namespace of a kind.
fn own_namespace(kind: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(format!("/proc/self/ns/{kind}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Puts a descriptor at a number above the standard ones, which a server replaces.
fn above_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, 3)
}
