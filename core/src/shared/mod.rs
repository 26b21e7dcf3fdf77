//! The shared image server: an image is mounted once per node, user and job, and every launch of the same kind joins.
//!
//! A server ([`server`]) lives in a user namespace of its own, with the image mounted in it. A launch that finds it gets the user
//! namespace to enter and clones of the mount, one of them in the shape that it needs ([`shapes`]), to attach wherever it likes. So
//! containers of one job share what is decompressed and cached, and sit in one user namespace, which is what cross-memory attach
//! asks for (ptrace(2), "Ptrace access mode checking"). Nothing is counted: a server that nobody uses detaches its own mounts after
//! the idle time, and lives on only as long as somebody holds a clone.
//!
//! Servers of other images in the same job sit in the same user namespace, so what is said of ranks holds where they run different
//! programs from different images. So does one without any image, for containers from directories and ext3 images: it hands out
//! the namespace, and nothing else.
//!
//! Whoever finds no server starts one; a lock makes the others wait for it instead of starting theirs. Nothing here has
//! a time limit, and nothing here fails a launch: where sharing cannot be had, the launch mounts for itself.

mod folder;
mod key;
mod namespace;
mod server;
mod shapes;
mod users;

use folder::{Lock, address, servers_of, unix_socket};
use key::Key;
pub use users::layer_of;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketType, connect, recvmsg, sendmsg,
};
use rustix::thread::UnshareFlags;

use crate::launch::identity;
use crate::launch::kernel::{self, Forked};
use crate::launch::mounts::Missing;
use crate::launch::root::{self, OpenImage};
use crate::plan::{Capabilities, Identity, ImageRoot, Namespace, Plan};
use crate::squashfs::reader::Image;
use crate::store::Store;

/// Where the servers' names are, below the user's private directory.
const FOLDER: &str = "mounts";
/// Descriptors in one answer of a server's.
const MOST_DESCRIPTORS: usize = 3;
/// Before it is looked again whether somebody has come who was about to.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// What a launch takes over from the server.
pub struct Joined {
    pub user_namespace: OwnedFd,
    /// The image as a mount that is attached nowhere. `None`: the launch opens its root by itself.
    pub tree: Option<OwnedFd>,
    pub shapes: Option<Shaper>,
}

/// What of the server a launch can have instead of the image as it is, before it lets go of it.
pub struct Shaper {
    /// The image under an overlay that adds nothing, where that is better than the image as it is.
    plain: Option<OwnedFd>,
    socket: OwnedFd,
}

impl Shaper {
    /// The image with these mount points in it, as a mount that is attached nowhere; None where it is to be had as it is only.
    pub fn shape(mut self, missing: &[Missing]) -> Option<OwnedFd> {
        if missing.is_empty() {
            return self.plain.take();
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

/// What a server is for: an image, or the user namespace alone.
type Shared<'p> = Option<(&'p ImageRoot, &'p OpenImage)>;

/// Finds or starts the server for a plan's image, which is `open`, else for the job's user namespace. `None`: the launch is on its own.
///
/// The caller must have one thread and be outside the plan's namespaces.
pub fn join(plan: &Plan, open: Option<&OpenImage>) -> Option<Joined> {
    let sharing = plan.sharing?;
    // A network that another namespace owns is entered by that one; one that a helper connects is left to this launch.
    // So is a user namespace with a property of its own.
    let own = plan.netns.is_some() || plan.helper.is_some() || plan.identity.keep_groups;
    // Who is root inside and sees the host's processes could reach the host's files through the server.
    let looks = plan.process.capabilities != Capabilities::None && !plan.has(Namespace::Pid);
    if own || looks || plan.identity.uid_map.is_empty() {
        return None;
    }
    let shared: Shared<'_> = if has_limits() { None } else { root::lowest(&plan.root).zip(open) };
    let key = key::of(&plan.identity, shared.map(|(root, open)| (root, &open.status)))?;
    let store = Store::open_or_make().ok()?.folder(FOLDER).ok()?;
    let find = || match shared {
        Some(_) => Ok(connect_to(&store, &key.server)),
        None => namespace::find(&store, &key.server)
            .map(|found| found.map(|user_namespace| Joined { user_namespace, tree: None, shapes: None })),
    };
    if let Some(joined) = find().ok()? {
        return Some(joined);
    }
    // Who would hold the namespace without any idle time would be gone before anybody else came.
    if shared.is_none() && sharing.idle == 0 {
        return None;
    }
    let lock = Lock::take(&store, &key.server).ok()?;
    // Somebody else may have started it meanwhile.
    if let Some(joined) = find().ok()? {
        return Some(joined);
    }
    start(shared, &lock, plan, &store, &key, sharing.idle)?;
    // A server takes its name away under this lock only: whoever started it comes in, however short its idle time is.
    let joined = find();
    drop(lock);
    joined.ok()?
}

/// The user namespace of the job, if another server holds it.
fn namespace_of(store: &Store, job: &str) -> Option<OwnedFd> {
    servers_of(store, job).into_iter().find_map(|name| {
        if key::is_without_image(&name) {
            namespace::find(store, &name).ok()?
        } else {
            connect_to(store, &name).map(|joined| joined.user_namespace)
        }
    })
}

/// Whether this process may use only so much of the processor or of memory: its server would die of that, and with it
/// the file system of containers that have no such limits.
fn has_limits() -> bool {
    use rustix::process::{Resource, getrlimit};
    [Resource::Cpu, Resource::As, Resource::Data].into_iter().any(|what| getrlimit(what).maximum.is_some())
}

/// Asks a running server. It answers at once with the namespace, the image, and its plain shape if it has that.
fn connect_to(store: &Store, key: &str) -> Option<Joined> {
    let socket = unix_socket(SocketType::STREAM).ok()?;
    connect(&socket, &address(store, key).ok()?).ok()?;
    // None: it ended while the connection waited.
    let mut descriptors = receive(socket.as_fd())?.into_iter();
    let (user_namespace, tree) = (descriptors.next()?, descriptors.next()?);
    let shapes = Some(Shaper { plain: descriptors.next(), socket });
    Some(Joined { user_namespace, tree: Some(tree), shapes })
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

/// Starts a server and waits until it answers, or has ended without. It keeps the locks as well until it answers, so that nobody
/// starts another one when this process is killed meanwhile.
fn start(shared: Shared<'_>, lock: &Lock, plan: &Plan, store: &Store, key: &Key, idle: u32) -> Option<()> {
    // Not in the child: what is read here is read once even where the image turns out to be none.
    let served = match shared {
        Some((root, open)) => Some((Image::open(Arc::clone(&open.file), root.offset, root.size).ok()?, root)),
        None => None,
    };
    // Held while it is settled which user namespace is the job's; the image, which may be slow to come, has been opened before.
    let job = Lock::take(store, &key.job).ok()?;
    let namespace = namespace_of(store, &key.job);
    let (ours, theirs) = UnixStream::pair().ok()?;
    match kernel::fork_unseen(UnshareFlags::empty()).ok()? {
        Forked::Child => {
            drop(ours);
            let begun = Beginning { ready: OwnedFd::from(theirs), locks: [lock, &job], namespace };
            let user = &plan.identity;
            let done = match served {
                Some((image, root)) => server::run(image, root, user, store, key, idle, begun),
                None => namespace::hold(user, store, &key.server, idle, begun),
            };
            kernel::exit_now(i32::from(done.is_err()))
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

/// What a server has until it answers.
struct Beginning<'l> {
    /// A byte is written here then.
    ready: OwnedFd,
    locks: [&'l Lock; 2],
    /// The user namespace of the job, where it has one already.
    namespace: Option<OwnedFd>,
}

/// The same by descriptors that the server keeps.
struct Begun {
    ready: OwnedFd,
    locks: [OwnedFd; 2],
    namespace: Option<OwnedFd>,
}

impl Beginning<'_> {
    fn keep(self) -> Result<Begun, Errno> {
        let [one, other] = self.locks;
        Ok(Begun {
            ready: above_standard(self.ready)?,
            locks: [one.duplicate()?, other.duplicate()?],
            namespace: self.namespace.map(above_standard).transpose()?,
        })
    }
}

impl Begun {
    fn descriptors(&self) -> Vec<RawFd> {
        let all = [&self.ready].into_iter().chain(&self.locks).chain(&self.namespace);
        all.map(AsRawFd::as_raw_fd).collect()
    }

    /// Enters the job's user namespace, else a new one, and new namespaces of the other kinds.
    fn enter(&self, user: &Identity, others: UnshareFlags) -> Result<(), Errno> {
        let joined = |there: &OwnedFd| identity::join(there.as_fd(), others).is_ok();
        if self.namespace.as_ref().is_some_and(joined) {
            return Ok(());
        }
        identity::enter_with(user, others).map_err(|_| Errno::PERM)
    }

    /// Launches are answered from now on.
    fn announce(self) {
        drop(self.locks);
        let _ = rustix::io::write(&self.ready, b"!");
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
