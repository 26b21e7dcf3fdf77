//! Kernel calls that rustix has no safe form of, one thin function each. Policy lives above.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// fork(2) in a process with other threads, of which the child has none. It may use its memory, which the C library sees to, but
/// nothing that another thread could be in the midst of changing.
pub fn fork_beside_threads() -> Result<Forked, Errno> {
    fork()
}

/// A fork(2) whose child wait(2) does not show to who does not ask for it, in namespaces of its own. Callers have one thread.
///
/// The payload takes this process over by execve(2), and must not meet children that it did not start.
pub fn fork_unseen(flags: UnshareFlags) -> Result<Forked, Errno> {
    // SAFETY: as for fork: no memory is shared, and the child has its own copy of everything. No signal at its end.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, libc::c_ulong::from(flags.bits()), 0, 0, 0, 0) })?;
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

/// Makes `fd` available under a number to the program that is executed next. What had the number is closed.
pub fn move_descriptor(fd: BorrowedFd<'_>, number: i32) {
    // SAFETY: the caller is about to execute another program and uses nothing that has this number.
    unsafe {
        if fd.as_raw_fd() == number {
            libc::fcntl(number, libc::F_SETFD, 0);
        } else {
            libc::dup2(fd.as_raw_fd(), number);
        }
    }
}

// ioctl_nsfs(2).
const NS_GET_USERNS: libc::c_ulong = 0xb701;
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// Whether a descriptor refers to a network namespace.
pub fn is_network_namespace(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: the request has no argument; on anything but a namespace it is an error.
    unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) == libc::CLONE_NEWNET }
}

/// The user namespace that owns a namespace.
pub fn owner_of_namespace(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: the request has no argument, and returns a descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::c_long::from(libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS as _)))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// execve(2); returns only if it failed.
pub fn execve(path: &CStr, argv: &[CString], envp: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: both arrays are null-terminated and their strings outlive the call.
    match check(libc::c_long::from(unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) })) {
        Err(errno) => errno,
        Ok(_) => Errno::IO,
    }
}

/// Gives a signal its default action again.
pub fn default_action(signal: i32) {
    // SAFETY: SIG_DFL is no handler of this program's.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Lets a signal do nothing: what would have raised it fails instead.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is no handler of this program's.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Blocks every signal that can be blocked, or none.
pub fn block_signals(all: bool) {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the set is initialised by either call before it is used.
    unsafe {
        if all {
            libc::sigfillset(set.as_mut_ptr())
        } else {
            libc::sigemptyset(set.as_mut_ptr())
        };
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Keeps a signal waiting, here and in the program that takes this one's place, until that lets it through; whether it did not already.
pub fn hold(signal: i32) -> bool {
    let mut set = std::mem::MaybeUninit::uninit();
    let mut before = std::mem::MaybeUninit::uninit();
    // SAFETY: each set is initialised by a call before others use it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigemptyset(before.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
        libc::sigismember(before.as_ptr(), signal) == 0
    }
}

/// kill(2).
pub fn kill(pid: Pid, signal: i32) {
    // SAFETY: sending a signal touches no memory. A target that is gone is no concern of the sender.
    unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
}

/// Sends a signal to a process group; true if there is one.
pub fn kill_group(leader: Pid, signal: i32) -> bool {
    // SAFETY: as above.
    unsafe { libc::kill(-leader.as_raw_nonzero().get(), signal) == 0 }
}

/// Sends a signal to every process of this PID namespace but its first. For that first one only.
pub fn kill_others(signal: i32) {
    // SAFETY: as above.
    unsafe { libc::kill(-1, signal) };
}

/// Sends a signal to process 1 of this PID namespace.
pub fn kill_first(signal: i32) {
    // SAFETY: as above.
    unsafe { libc::kill(1, signal) };
}

/// Keeps other processes of the user from looking into this one through /proc, until it executes something.
///
/// What they could reach there is this program's file, and descriptors of the host's.
pub fn hide() -> Result<(), Errno> {
    // SAFETY: an attribute of this process changes.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })).map(drop)
}

/// Replaces what `ps` shows as this process's command line, as far as there is room.
pub fn set_title(title: &[u8]) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // Behind the name, which may hold anything but ends with the last parenthesis: field 3 and so on.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<usize>().ok());
    let (Some(start), Some(end)) = (number(48), number(49)) else { return };
    let Some(room) = end.checked_sub(start).filter(|room| *room > 1 && start != 0) else { return };
    let length = title.len().min(room - 1);
    // SAFETY: the kernel put this process's arguments, which are writable memory, from `start` to `end`; no reference
    // to them is alive once main() has read them, and the standard library reads them only when asked.
    unsafe {
        std::ptr::write_bytes(start as *mut u8, 0, room);
        std::ptr::copy_nonoverlapping(title.as_ptr(), start as *mut u8, length);
    }
}

/// A signal as signalfd(2) tells it.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    pub signal: i32,
    /// Sent by the kernel itself, for example by a terminal to all of its foreground group.
    pub by_kernel: bool,
    /// The sender in this PID namespace, 0 if it is outside.
    pub sender: u32,
}

/// A descriptor to read every blocked signal from.
pub fn signal_queue() -> Result<OwnedFd, Errno> {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the set is initialised before use; the descriptor returned is owned by nobody else.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        let fd = check(libc::c_long::from(libc::signalfd(-1, set.as_ptr(), flags)))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// The next signal of a queue, if there is one.
pub fn next_signal(queue: BorrowedFd<'_>) -> Option<Arrived> {
    let mut record = std::mem::MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the kernel writes at most `size` bytes of a record that any bytes are valid for.
    let record = unsafe {
        let read = libc::read(queue.as_raw_fd(), record.as_mut_ptr().cast(), size);
        if usize::try_from(read) != Ok(size) {
            return None;
        }
        record.assume_init()
    };
    Some(Arrived {
        signal: record.ssi_signo as i32,
        by_kernel: record.ssi_code == libc::SI_KERNEL,
        sender: record.ssi_pid,
    })
}

/// Sets the loopback interface of the current network namespace up (netdevice(7)).
pub fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: every byte pattern is a valid request, and the kernel reads and writes no further than it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::c_long::from(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)))
            .map(drop)
    }
}

/// Closes every descriptor of this process but these. What owns the others must not be used again.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) {
    close_from_but(0, keep);
}

/// Closes every descriptor from `first` on but these, under the same condition.
pub fn close_from_but(mut first: libc::c_uint, keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<libc::c_uint> = keep.iter().map(|fd| fd.as_raw_fd() as libc::c_uint).collect();
    keep.sort_unstable();
    for fd in keep {
        if fd > first {
            // SAFETY: the process goes on in a loop that uses the kept descriptors only.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd + 1;
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// seccomp(2): installs a filter for this process and what it executes.
///
/// `confines`: the filter keeps somebody from something, so the kernel's guards against speculation stay as they are.
pub fn install_filter(program: &[libc::sock_filter], confines: bool) -> Result<(), Errno> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // For a filter that confines nobody no speculation barrier is wanted on older kernels.
    let flags = if confines { 0 } else { libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW };
    // SAFETY: the kernel copies the program, which lives during the call and has the length given.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })
    .map(drop)
}

/// The same, with a descriptor at which this filter's questions arrive (seccomp_unotify(2)).
pub fn install_listening_filter(program: &[libc::sock_filter]) -> Result<OwnedFd, Errno> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the kernel copies the program, which lives during the call and has the length given; the descriptor it
    // returns is owned by nobody else.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// A call that waits for an answer.
pub struct Question {
    pub id: u64,
    /// The thread that calls, in the listener's PID namespace.
    pub thread: u32,
    pub architecture: u32,
    pub number: u32,
    pub arguments: [u64; 6],
}

/// The next question of a listening filter.
pub fn next_question(listener: BorrowedFd<'_>) -> Result<Question, Errno> {
    // SAFETY: any bytes are a valid record, and the kernel wants it to be zeroed and writes no further than it.
    let record = unsafe {
        let mut record: libc::seccomp_notif = std::mem::zeroed();
        check(libc::c_long::from(libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut record,
        )))?;
        record
    };
    Ok(Question {
        id: record.id,
        thread: record.pid,
        architecture: record.data.arch,
        number: record.data.nr as u32,
        arguments: record.data.args,
    })
}

/// Whether who asked still waits: its number has not gone to another.
pub fn still_asks(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads the number during the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Lets a call return: 0, or the error.
pub fn answer(listener: BorrowedFd<'_>, id: u64, result: Result<(), Errno>) {
    let error = result.err().map_or(0, |errno| -errno.raw_os_error());
    let record = libc::seccomp_notif_resp { id, val: 0, error, flags: 0 };
    // SAFETY: the kernel reads the record during the call. Who is not there any more needs no answer.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const record) };
}

/// Whether this kernel's filters can make a call succeed without effect.
pub fn filters_are_known() -> Result<(), Errno> {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads the action during the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) })
        .map(drop)
}
