//! Who writes down the owners that a root of a single id gives away: a process beside the payload that answers its chown(2).
//!
//! The kernel would refuse such a call, and the seccomp filter would let it succeed without effect. Here the payload's call waits
//! while this process finds the file as the payload names it, and writes the owner into the attribute that
//! [`crate::owner`] describes. An image made of the root gives the file that owner. What stat(2) says stays as it is.
//!
//! It has no right that the payload has not: the same ids, the same namespaces, and it looks paths up from the payload's own root. Files
//! of other mounts (binds of the host above all) are never touched. Where writing fails the call succeeds without
//! effect, as before. It ends with the last process that is under the filter.

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::failure::Failure;
use super::kernel::{self, Forked, Question};
use super::notes::Notes;
use super::seccomp::{self, Chown, Emulated};
use crate::owner::{ATTRIBUTE, LONGEST, Owner, UNSAID};
use crate::text::Text;
use rustix::thread::UnshareFlags;

/// PATH_MAX of Linux, with the zero at the end.
const LONGEST_PATH: usize = 4096;
/// The smallest page there is: reading the payload's memory must not need the next one.
const PAGE: usize = 4096;

/// Emulates root for this process and its descendants, and writes down what it does to the owners of files in the root: `/`, or what
/// is mounted at a place of the host.
///
/// notes: for files that cannot carry the attribute.
pub fn emulate(mount_at: Option<&Text>, notes: Option<Notes>) -> Result<(), Failure> {
    match start(mount_at, notes) {
        Ok(channel) => match seccomp::emulate(Emulated::OwnershipAsked) {
            Ok(Some(listener)) if hand_over(&channel, listener.as_fd()).is_ok() => Ok(()),
            // Dropping the channel ends the process. A filter of this kernel or of who runs us cannot ask.
            Ok(Some(_)) => Err(Failure::because("seccomp", "the recorder of owners has ended")),
            _ => seccomp::emulate(Emulated::OwnershipAndDevices).map(drop),
        },
        Err(_) => seccomp::emulate(Emulated::OwnershipAndDevices).map(drop),
    }
}

fn hand_over(channel: &OwnedFd, listener: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let listener = [listener];
    control.push(SendAncillaryMessage::ScmRights(&listener));
    sendmsg(channel, &[IoSlice::new(b"!")], &mut control, SendFlags::NOSIGNAL).map(drop)
}

fn take_over(channel: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(channel, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

/// Starts the process; the filter's listener is to be sent through what is returned.
fn start(mount_at: Option<&Text>, notes: Option<Notes>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(mount_at.map_or("/".as_ref(), Text::as_os_str), flags, Mode::empty())?;
    let mount = mount_of(root.as_fd())?;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    // Nothing is mounted there, or something else.
    rustix::fs::statat(&proc, "self/fd", AtFlags::empty())?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    match kernel::fork_unseen(UnshareFlags::empty())? {
        Forked::Parent(_) => Ok(ours),
        Forked::Child => {
            drop(ours);
            detach();
            if let Some(listener) = take_over(&theirs) {
                let mut kept = vec![listener.as_fd(), proc.as_fd(), root.as_fd()];
                kept.extend(notes.iter().flat_map(Notes::descriptors));
                kernel::close_all_but(&kept);
                Recorder { proc, mount, root, notes }.serve(listener.as_fd());
            }
            kernel::exit_now(0)
        }
    }
}

/// Signals of the terminal are the payload's, and so is its output.
fn detach() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let _ = rustix::thread::set_name(c"soliton-owners");
    kernel::block_signals(true);
}

/// As far as something is said of its owner, a file is root's, whose it was already.
fn give_to_root(file: BorrowedFd<'_>, wanted: Owner) {
    let root = |id| (id != UNSAID).then_some(0);
    let (uid, gid) = (root(wanted.uid).map(Uid::from_raw), root(wanted.gid).map(Gid::from_raw));
    let _ = rustix::fs::chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH);
}

/// The number of the mount that a file lies on.
fn mount_of(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let wanted = StatxFlags::MNT_ID | StatxFlags::TYPE;
    let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, wanted)?;
    if StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID) {
        Ok(found.stx_mnt_id)
    } else {
        Err(Errno::NOTSUP)
    }
}

struct Recorder {
    /// The file system /proc of the payload's PID namespace.
    proc: OwnedFd,
    /// The only mount whose files are written to.
    mount: u64,
    /// Where it is mounted.
    root: OwnedFd,
    notes: Option<Notes>,
}

impl Recorder {
    fn serve(&self, listener: BorrowedFd<'_>) {
        loop {
            let mut entry = [PollFd::new(&listener, PollFlags::IN)];
            match poll(&mut entry, None) {
                Err(Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) => {}
            }
            if !entry[0].revents().contains(PollFlags::IN) {
                return; // Nobody is left under the filter.
            }
            let Ok(question) = kernel::next_question(listener) else { continue };
            kernel::answer(listener, question.id, self.answer(listener, &question));
        }
    }

    /// What the call returns. Failures to find the file are the payload's; failures to write are nobody's.
    fn answer(&self, listener: BorrowedFd<'_>, question: &Question) -> Result<(), Errno> {
        let Some(how) = seccomp::owner_call(question.architecture, question.number) else { return Ok(()) };
        let found = self.find(how, question);
        // Whatever was read may have been another's if this one has ended meanwhile.
        if !kernel::still_asks(listener, question.id) {
            return Ok(());
        }
        match found {
            Ok((file, wanted)) => {
                let by_descriptor = matches!(how, Chown::Descriptor | Chown::ShortDescriptor);
                let _ = self.record(file.as_fd(), wanted, by_descriptor);
                Ok(())
            }
            Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)) => Err(errno),
            Err(errno @ (Errno::BADF | Errno::FAULT)) => Err(errno),
            Err(_) => Ok(()),
        }
    }

    /// The file that a call is about, and the owner it is to have.
    fn find(&self, how: Chown, question: &Question) -> Result<(OwnedFd, Owner), Errno> {
        let arguments = &question.arguments;
        let ids = |at: usize| Owner { uid: arguments[at] as u32, gid: arguments[at + 1] as u32 };
        let short = |at: usize| {
            let wide = |id: u64| if id as u16 == u16::MAX { UNSAID } else { u32::from(id as u16) };
            Owner { uid: wide(arguments[at]), gid: wide(arguments[at + 1]) }
        };
        let thread = question.thread;
        let path = |at: usize| self.text(thread, arguments[at]);
        let here = libc::AT_FDCWD;
        let directory = arguments[0] as i32;
        Ok(match how {
            Chown::Path => (self.open(thread, here, &path(0)?, true)?, ids(1)),
            Chown::Link => (self.open(thread, here, &path(0)?, false)?, ids(1)),
            Chown::Descriptor => (self.descriptor(thread, directory)?, ids(1)),
            Chown::ShortPath => (self.open(thread, here, &path(0)?, true)?, short(1)),
            Chown::ShortLink => (self.open(thread, here, &path(0)?, false)?, short(1)),
            Chown::ShortDescriptor => (self.descriptor(thread, directory)?, short(1)),
            Chown::At => {
                let (path, flags) = (path(1)?, AtFlags::from_bits_retain(arguments[4] as u32));
                if path.is_empty() && flags.contains(AtFlags::EMPTY_PATH) {
                    let base = if directory == here { "cwd".to_owned() } else { format!("fd/{directory}") };
                    (self.of_thread(thread, &base)?, ids(2))
                } else {
                    let follow = !flags.contains(AtFlags::SYMLINK_NOFOLLOW);
                    (self.open(thread, directory, &path, follow)?, ids(2))
                }
            }
        })
    }

    /// What the payload has open, or stands in: `fd/3`, `cwd`, `root`.
    fn of_thread(&self, thread: u32, what: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat(&self.proc, format!("{thread}/{what}"), flags, Mode::empty())
    }

    fn descriptor(&self, thread: u32, number: i32) -> Result<OwnedFd, Errno> {
        self.of_thread(thread, &format!("fd/{number}")).map_err(|_| Errno::BADF)
    }

    /// A file as the payload's system call would find it: by its own root and directory.
    fn open(&self, thread: u32, directory: i32, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let root = self.of_thread(thread, "root")?;
        let base = match directory {
            _ if path.starts_with(b"/") => root.try_clone().map_err(|_| Errno::MFILE)?,
            libc::AT_FDCWD => self.of_thread(thread, "cwd")?,
            number => self.descriptor(thread, number)?,
        };
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(c".")?;
        rustix::process::fchdir(&base)?;
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !follow);
        // Links of /proc lead to what this process has open, not to the payload's.
        let how = ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), how).map_err(|errno| {
            // Neither are `/proc/self` nor `/dev/stdout` what they are for the payload; nothing there could be recorded.
            if path.starts_with(b"/proc/") || path.starts_with(b"/dev/") { Errno::XDEV } else { errno }
        })
    }

    /// A string in the payload's memory.
    fn text(&self, thread: u32, address: u64) -> Result<Vec<u8>, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let memory = rustix::fs::openat(&self.proc, format!("{thread}/mem"), flags, Mode::empty())
            .map_err(|_| Errno::PERM)?;
        let mut text = Vec::new();
        while text.len() < LONGEST_PATH {
            let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
            let mut piece = [0; PAGE];
            let rest = PAGE - (at as usize % PAGE);
            let count = match rustix::io::pread(&memory, &mut piece[..rest], at) {
                Ok(0) | Err(_) => return Err(Errno::FAULT),
                Ok(count) => count,
            };
            if let Some(end) = piece[..count].iter().position(|&byte| byte == 0) {
                text.extend_from_slice(&piece[..end]);
                return if text.len() < LONGEST_PATH { Ok(text) } else { Err(Errno::NAMETOOLONG) };
            }
            text.extend_from_slice(&piece[..count]);
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Writes the owner beside the file. Only what can carry a user's attribute can be said something of.
    ///
    /// Programs that rewrite a file (`useradd`, `sed -i`) give the new one the owner that they saw the old one have, which
    /// here is always root. So a file that is given to root by descriptor, and has no record, gets none: it has the owner of what
    /// it takes the place of.
    fn record(&self, file: BorrowedFd<'_>, wanted: Owner, by_descriptor: bool) -> Result<(), Errno> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
        if mount_of(file)? != self.mount {
            return Ok(());
        }
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return self.note(file, wanted);
        }
        // A path to the very file, which an attribute's calls need where it is not open for reading.
        rustix::process::fchdir(&self.proc)?;
        let path = CString::new(format!("self/fd/{}", file.as_raw_fd())).map_err(|_| Errno::INVAL)?;
        let mut value = [0; LONGEST];
        let before = rustix::fs::getxattr(&*path, ATTRIBUTE, &mut value[..])
            .ok()
            .and_then(|count| Owner::decode(value.get(..count)?))
            .unwrap_or(Owner { uid: UNSAID, gid: UNSAID });
        // What else chown(2) does: set-user-id bits and capabilities are gone afterwards.
        give_to_root(file, wanted);
        let said = |new, old| if by_descriptor && new == 0 && old == UNSAID { UNSAID } else { new };
        let after = before.changed(said(wanted.uid, before.uid), said(wanted.gid, before.gid));
        if after == before {
            return Ok(());
        }
        rustix::fs::setxattr(&*path, ATTRIBUTE, &after.encode(), XattrFlags::empty())
    }

    /// Notes the owner of a link or a pipe.
    fn note(&self, file: BorrowedFd<'_>, wanted: Owner) -> Result<(), Errno> {
        let Some(notes) = &self.notes else { return Ok(()) };
        // It is in the directory that is written to afterwards, if it was not.
        give_to_root(file, wanted);
        // Its path is told as it is below the mount.
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(c".")?;
        let link = format!("self/fd/{}", file.as_raw_fd());
        let path = rustix::fs::readlinkat(&self.proc, link, Vec::new())?;
        notes.note(path.as_bytes(), wanted)
    }
}
