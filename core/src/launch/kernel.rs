//! Kernel calls that rustix has no safe form of, one thin function each. Policy lives above.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

fn check(value: libc::c_long) -> Result<libc::c_long, Errno> {
    if value < 0 {
        // SAFETY: errno is a thread-local integer.
        Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
    } else {
        Ok(value)
    }
}

/// What fork(2) returned.
pub enum Forked {
    Child,
    Parent(Pid),
}

/// fork(2). Callers are single-threaded, so the child may do anything.
pub fn fork() -> Result<Forked, Errno> {
    // SAFETY: the core forks only while it has one thread; both sides then own copies of everything.
    let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok(match Pid::from_raw(pid as i32) {
        Some(pid) => Forked::Parent(pid),
        None => Forked::Child,
    })
}

/// Ends a forked child without running the parent's exit handlers.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// unshare(2), without CLONE_FILES: descriptors stay valid.
pub fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    if flags.is_empty() {
        return Ok(());
    }
    // SAFETY: the flags never contain CLONE_FILES or CLONE_VM, which are what makes unshare unsafe.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// mount_setattr(2) on the mount that `mount` refers to: sets the attributes `set`, clears none.
pub fn set_mount_attributes(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> Result<(), Errno> {
    if set == 0 {
        return Ok(());
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, the structure lives during the call and its true size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// close_range(2) from `first` on: marks every descriptor close-on-exec.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: only the close-on-exec flag of descriptors changes.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint)
    })
    .map(drop)
}
