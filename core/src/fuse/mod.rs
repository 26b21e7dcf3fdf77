//! The image as a mounted file system: a read-only FUSE server of our own, without libfuse or fusermount.
//!
//! It mounts by itself inside the user namespace, keeps no table of what the kernel has looked up (an inode's
//! place in the image is its number), and lets the kernel cache everything for ever: an image never changes.

mod ahead;
pub mod empty;
pub(crate) mod protocol;
pub(crate) mod reply;
mod server;
pub mod skeletons;

pub use server::{serve, serve_with};

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use rustix::thread::UnshareFlags;

use crate::launch::kernel::{self, Forked};
use crate::launch::{root, trees};
use crate::plan;
use crate::squashfs::reader::Image;

/// How owners are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// As recorded in the image.
    Stored,
    /// Every file belongs to this user and group.
    All { uid: u32, gid: u32 },
}

/// How the owners of a plan's image are shown.
pub fn ids(ids: plan::Ids, user: &plan::Identity) -> Ids {
    match ids {
        plan::Ids::Stored => Ids::Stored,
        plan::Ids::Caller => Ids::All { uid: user.uid, gid: user.gid },
    }
}

/// A step that failed, for the launcher to explain.
#[derive(Debug)]
pub struct MountError {
    /// The system call or device.
    pub call: &'static str,
    pub errno: Errno,
}

fn failed(call: &'static str) -> impl Fn(Errno) -> MountError {
    move |errno| MountError { call, errno }
}

/// Opens /dev/fuse. It must be opened inside the user namespace that will own the mount.
pub fn open_device() -> Result<OwnedFd, MountError> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed("/dev/fuse"))
}

/// Makes a mount that is attached nowhere yet, served through `device` by this program.
pub fn detached_mount(device: impl AsFd, source: &str, writable: bool) -> Result<OwnedFd, MountError> {
    let read_only: &[&str] = if writable { &[] } else { &["ro"] };
    let flags: Vec<&str> = ["allow_other", "default_permissions"].iter().chain(read_only).copied().collect();
    mount(device.as_fd(), source, "soliton", &flags, writable)
}

/// The same for another program, which decides by itself who may do what.
pub fn foreign_mount(device: impl AsFd, program: &str) -> Result<OwnedFd, MountError> {
    mount(device.as_fd(), program, "fusemount", &["allow_other"], true)
}

fn mount(
    device: BorrowedFd<'_>,
    source: &str,
    subtype: &str,
    flags: &[&str],
    writable: bool,
) -> Result<OwnedFd, MountError> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen"))?;
    let set =
        |key: &str, value: &str| fsconfig_set_string(context.as_fd(), key, value).map_err(failed("fsconfig"));
    // The name that /proc/mounts shows; a comma would end it.
    set("source", &source.replace([',', '\n'], "_"))?;
    set("subtype", subtype)?;
    set("fd", &device.as_raw_fd().to_string())?;
    set("rootmode", "40000")?;
    set("user_id", &rustix::process::getuid().as_raw().to_string())?;
    set("group_id", &rustix::process::getgid().as_raw().to_string())?;
    for flag in flags {
        fsconfig_set_flag(context.as_fd(), *flag).map_err(failed("fsconfig"))?;
    }
    fsconfig_create(context.as_fd()).map_err(failed("fsconfig create"))?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, !writable);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount"))
}

/// Mounts the image and starts the process that serves it; gives back the mount, attached nowhere yet.
///
/// The caller must have one thread and be in the user namespace (and a mount namespace of it) that will own the
/// mount. The server lives in a mount namespace of its own, made before the mount is attached anywhere, so it
/// ends by itself when the last container that sees the mount ends, however that comes about.
pub fn spawn_server(image: Image, ids: Ids, source: &str) -> Result<OwnedFd, MountError> {
    let file = image.source().0.as_raw_fd();
    spawn(source, false, file, move |device| {
        // Who is root in the container could reach the host's files through this process.
        let _ = kernel::hide();
        server::serve(device, image, ids);
    })
}

/// The same for any server, which needs the descriptor `file` besides the device.
pub fn spawn(
    source: &str,
    writable: bool,
    file: RawFd,
    serve: impl FnOnce(OwnedFd),
) -> Result<OwnedFd, MountError> {
    let device = open_device()?;
    let mount = detached_mount(&device, source, writable)?;
    match kernel::fork_unseen(UnshareFlags::NEWNS).map_err(failed("clone"))? {
        Forked::Child => {
            drop(mount);
            become_server(&[device.as_raw_fd(), file]);
            serve(device);
            kernel::exit_now(0)
        }
        Forked::Parent(_) => Ok(mount),
    }
}

/// Leaves the files of the host for an empty directory: who is root in a container of this user namespace could reach them
/// through this process, which others of the user may look at, since it holds a lock. The mount namespace is the server's own.
pub fn leave_host() {
    let left = trees::tmpfs(4096, 0o555, trees::INERT)
        .and_then(|empty| trees::attach_at(empty.as_fd(), CWD, "/proc").map(|()| empty));
    if !left.is_ok_and(|empty| root::enter(empty.as_fd()).is_ok()) {
        let _ = kernel::hide();
    }
}

/// Cuts the server loose from the terminal, the working directory and the files of the command.
pub fn become_server(kept: &[RawFd]) {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let _ = rustix::thread::set_name(&CString::from(c"soliton-image"));
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    // A limit on the size of files is an answer to a write (EFBIG), not the end of all that is served.
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGPIPE, libc::SIGQUIT, libc::SIGTSTP, libc::SIGXFSZ] {
        // SAFETY: sets a disposition; no handler runs.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // Whatever else the command had open must not live as long as this server: a pipe's reader waits for it.
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        close_between(first, fd);
        first = fd + 1;
    }
    close_between(first, RawFd::MAX);
}

/// Closes the descriptors from `first` up to, but not including, `end`.
fn close_between(first: RawFd, end: RawFd) {
    if first < end {
        // SAFETY: none of these is owned by anything that this process uses from here on.
        unsafe { libc::syscall(libc::SYS_close_range, first, end - 1, 0) };
    }
}
