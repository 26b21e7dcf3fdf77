//! Mounts that are attached nowhere yet: clones of the host's, and new file systems.
//!
//! A mount is made and given its flags while nothing can see it, then moved to the descriptor of its
//! target. No path is looked up twice.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::path::Arg;

use super::kernel;

/// What every mount of a container gets unless it has to be otherwise.
pub const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Clones the mount at an absolute path of the host, with everything mounted below it.
pub fn of_host(path: impl Arg) -> Result<OwnedFd, Errno> {
    of(CWD, path, OpenTreeFlags::empty())
}

/// Clones what `name` of an open directory is, not following it, with everything mounted below it.
pub fn of_entry(directory: BorrowedFd<'_>, name: impl Arg) -> Result<OwnedFd, Errno> {
    of(directory, name, OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
}

/// Clones what a descriptor refers to, with everything mounted below it.
pub fn of_open(place: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    of(place, c"", OpenTreeFlags::AT_EMPTY_PATH)
}

fn of(at: BorrowedFd<'_>, path: impl Arg, flags: OpenTreeFlags) -> Result<OwnedFd, Errno> {
    // Without AT_RECURSIVE the kernel refuses to uncover what a submount of the host hides.
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(at, path, clone | flags)
}

/// Makes a file system of type `name`. An option without a value is a flag.
///
/// The error comes with what the kernel itself says about it, possibly nothing.
pub fn new(
    name: &str,
    options: &[(&str, &[u8])],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, (Errno, String)> {
    let context =
        rustix::mount::fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| (errno, String::new()))?;
    let made = (|| {
        for (key, value) in options {
            if value.is_empty() {
                rustix::mount::fsconfig_set_flag(&context, *key)?;
            } else {
                rustix::mount::fsconfig_set_string(&context, *key, *value)?;
            }
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    })();
    made.map_err(|errno| (errno, complaint(context.as_fd())))
}

/// The last line the kernel logged for a file system context.
fn complaint(context: BorrowedFd<'_>) -> String {
    let mut text = String::new();
    let mut line = [0; 512];
    while let Ok(length) = rustix::io::read(context, &mut line) {
        text = String::from_utf8_lossy(&line[..length]).trim().to_owned();
        if length == 0 {
            break;
        }
    }
    text
}

/// A tmpfs of at most `size` bytes.
pub fn tmpfs(size: u64, mode: u32, attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let (size, mode) = (size.to_string(), format!("{mode:o}"));
    new("tmpfs", &[("size", size.as_bytes()), ("mode", mode.as_bytes())], attributes)
        .map_err(|(errno, _)| errno)
}

/// Adds attributes to a mount that is not attached yet, and to everything below it; takes none away.
pub fn restrict(tree: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<(), Errno> {
    kernel::set_mount_attributes(tree, u64::from(attributes.bits()), true)
}

/// Moves a mount onto what `target` refers to.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", target, c"", flags)
}

/// Moves a mount onto the entry `name` of a directory made by this process.
pub fn attach_at(tree: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: impl Arg) -> Result<(), Errno> {
    rustix::mount::move_mount(tree, c"", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// The kernel's number of the mount that a descriptor is on.
pub fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Whether something is mounted at this very place: what is open is the root of a mount.
pub fn is_mount_point(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let status = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
