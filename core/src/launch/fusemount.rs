//! FUSE file systems that programs of the user's choice serve in the container (`--fusemount`).
//!
//! The mount is made here, so that no program needs a privilege or fusermount; the program gets its device as an open
//! descriptor N, and `/dev/fd/N` in place of a mount point, as libfuse understands it. A program of the *container* is started in
//! it, beside the payload, and is ended with the PID namespace. One of the *host* is started by a keeper, which is forked before
//! any namespace is entered and so remains a process of the host's with whatever the caller has there. The keeper sees the
//! container end, and sees to it that the program ends, too: by itself, since its device is gone, else by signals.
//!
//! The payload starts when the file system has answered once.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open};
use rustix::thread::UnshareFlags;

use super::failure::{Context, Failure};
use super::kernel::{self, Forked};
use super::network::{receive, send};
use super::process::Command;
use crate::fuse;
use crate::plan::{FuseMount, Mount, Plan};
use crate::text::Text;

/// More than a program that could not be executed has to say.
const LONGEST_COMPLAINT: u64 = 4096;
/// The keeper's word that the program has been executed.
const STARTED: &[u8] = b"started";
/// How long a program may take to notice that its file system is gone, and then to heed SIGTERM.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// The programs of a container, as far as they have come.
#[derive(Default)]
pub struct Programs<'p> {
    /// Where what they say goes; None: to the streams of the command.
    logs: Option<Logs<'p>>,
    keepers: Vec<UnixStream>,
    mounted: Vec<Mounted<'p>>,
}

/// Two descriptors for output and errors.
type Logs<'p> = (BorrowedFd<'p>, BorrowedFd<'p>);

/// A file system whose program is not there yet.
struct Mounted<'p> {
    wish: &'p FuseMount,
    device: OwnedFd,
    /// The root of the file system.
    root: OwnedFd,
}

/// Forks a keeper for each program of the host's. To be called before any namespace is entered.
pub fn prepare<'p>(plan: &'p Plan, umask: Mode, logs: Option<Logs<'p>>) -> Result<Programs<'p>, Failure> {
    let mut programs = Programs { logs, ..Programs::default() };
    for mount in &plan.mounts {
        let Mount::Fuse(wish) = mount else { continue };
        if !wish.host {
            continue;
        }
        let (ours, theirs) = UnixStream::pair()
            .map_err(|error| Failure::because("fusemount", format!("socketpair: {error}")))?;
        let container = pidfd_open(getpid(), PidfdFlags::empty()).failed("fusemount", "pidfd_open")?;
        match kernel::fork_unseen(UnshareFlags::empty()).failed("fusemount", "clone")? {
            Forked::Child => {
                drop(ours);
                Keeper { wish, channel: theirs, container, umask, logs }.keep()
            }
            Forked::Parent(_) => programs.keepers.push(ours),
        }
    }
    Ok(programs)
}

impl<'p> Programs<'p> {
    /// Makes the mount of a program, attached nowhere yet.
    pub fn mount(&mut self, wish: &'p FuseMount) -> Result<OwnedFd, Failure> {
        let failed =
            |error: fuse::MountError| Failure::new("fusemount", error.call, error.errno).at(&wish.target);
        let device = fuse::open_device().map_err(failed)?;
        let name = wish.argv.first().map(ToString::to_string).unwrap_or_default();
        let tree = fuse::foreign_mount(&device, &name).map_err(failed)?;
        let root = rustix::io::fcntl_dupfd_cloexec(&tree, 3).failed("fusemount", "fcntl")?;
        self.mounted.push(Mounted { wish, device, root });
        Ok(tree)
    }

    /// Has the keepers start their programs.
    pub fn start_on_host(&mut self) -> Result<(), Failure> {
        let mut keepers = std::mem::take(&mut self.keepers).into_iter();
        for mounted in self.mounted.iter_mut().filter(|mounted| mounted.wish.host) {
            let Some(mut keeper) = keepers.next() else { continue };
            let because = |detail: String| Failure::because("fusemount", detail).at(&mounted.wish.argv[0]);
            send(&keeper, mounted.device.as_fd()).map_err(|errno| because(errno.to_string()))?;
            let mut answer = Vec::new();
            let _ = (&mut keeper).take(LONGEST_COMPLAINT).read_to_end(&mut answer);
            if answer != STARTED {
                return Err(because(String::from_utf8_lossy(&answer).trim().to_owned()));
            }
        }
        Ok(())
    }

    /// Starts the programs that are the container's, in the environment of `payload`, and waits for all file systems.
    pub fn start_inside(self, payload: &Command) -> Result<(), Failure> {
        for mounted in self.mounted.iter().filter(|mounted| !mounted.wish.host) {
            let words = words(mounted.wish, mounted.device.as_fd());
            let command = payload.with_words(&words);
            execute_beside(mounted.device.as_fd(), self.logs, || match command.execute() {
                Err(failure) => failure.message(),
                Ok(never) => match never {},
            })
            .map_err(|reason| Failure::because("fusemount", reason).at(&mounted.wish.argv[0]))?;
        }
        for Mounted { wish, device, root } in self.mounted {
            // Only the program has it from here on: its end is that of the file system.
            drop(device);
            match rustix::fs::fstatfs(&root) {
                Err(Errno::NOTCONN | Errno::CONNABORTED) => {
                    let reason = format!("it ended before {} was there", wish.target);
                    return Err(Failure::because("fusemount", reason).at(&wish.argv[0]));
                }
                _ => drop(root),
            }
        }
        Ok(())
    }
}

/// The command line: in the foreground, unless the program is to go into the background by itself.
fn words(wish: &FuseMount, device: BorrowedFd<'_>) -> Vec<Text> {
    let mut words = wish.argv.clone();
    if !wish.daemon {
        words.push(Text::from("-f"));
    }
    words.push(Text::from(format!("/dev/fd/{}", device.as_raw_fd()).as_str()));
    words
}

/// Executes a program in a child that nobody's wait(2) shows, with `device` open. The error is why that could not be.
fn execute_beside(
    device: BorrowedFd<'_>,
    logs: Option<Logs<'_>>,
    execute: impl FnOnce() -> String,
) -> Result<(), String> {
    let said = |call: &str, errno: Errno| format!("{call}: {}", std::io::Error::from(errno));
    let (complaint, complaint_end) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| said("pipe", errno))?;
    match kernel::fork_unseen(UnshareFlags::empty()).map_err(|errno| said("clone", errno))? {
        Forked::Child => {
            drop(complaint);
            become_program(device, logs);
            let reason = execute();
            let _ = rustix::io::write(&complaint_end, reason.as_bytes());
            kernel::exit_now(127)
        }
        Forked::Parent(_) => {
            drop(complaint_end);
            let mut reason = String::new();
            let _ = std::fs::File::from(complaint).take(LONGEST_COMPLAINT).read_to_string(&mut reason);
            if reason.is_empty() { Ok(()) } else { Err(reason) }
        }
    }
}

/// A session of its own: Ctrl-C is for the payload. What it says goes where the payload's words go.
fn become_program(device: BorrowedFd<'_>, logs: Option<Logs<'_>>) {
    let _ = rustix::process::setsid();
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
    if let Some((out, err)) = logs {
        let _ = rustix::stdio::dup2_stdout(out);
        let _ = rustix::stdio::dup2_stderr(err);
    }
    let _ = rustix::io::fcntl_setfd(device, FdFlags::empty());
    for signal in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGINT, libc::SIGHUP, libc::SIGTERM, libc::SIGCHLD] {
        kernel::default_action(signal);
    }
    kernel::block_signals(false);
}

/// A process of the host's that starts one program and sees to its end.
struct Keeper<'p> {
    wish: &'p FuseMount,
    channel: UnixStream,
    /// The process that the caller knows: it waits for the container.
    container: OwnedFd,
    umask: Mode,
    logs: Option<Logs<'p>>,
}

impl Keeper<'_> {
    fn keep(mut self) -> ! {
        let _ = rustix::process::setsid();
        let _ = rustix::thread::set_name(c"soliton-fuse");
        // What the program leaves behind becomes this process's child.
        let _ = rustix::process::set_child_subreaper(Some(getpid()));
        kernel::default_action(libc::SIGCHLD);
        kernel::block_signals(true);
        let Ok(queue) = kernel::signal_queue() else { kernel::exit_now(1) };
        let mut kept = vec![self.channel.as_fd(), self.container.as_fd(), queue.as_fd()];
        kept.extend(self.logs.iter().flat_map(|(out, err)| [*out, *err]));
        kernel::close_from_but(3, &kept);
        let Some(device) = receive(&self.channel) else { kernel::exit_now(1) };
        let program = match self.start(&device) {
            Ok(program) => program,
            Err(reason) => {
                let _ = self.channel.write_all(reason.as_bytes());
                kernel::exit_now(1)
            }
        };
        drop(device);
        let _ = self.channel.write_all(STARTED);
        let _ = self.channel.shutdown(std::net::Shutdown::Both);
        become_idle();
        self.tend(program, &queue)
    }

    fn start(&self, device: &OwnedFd) -> Result<Pid, String> {
        let said = |call: &str, errno: Errno| format!("{call}: {}", std::io::Error::from(errno));
        let (complaint, complaint_end) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| said("pipe", errno))?;
        match kernel::fork().map_err(|errno| said("fork", errno))? {
            Forked::Child => {
                drop(complaint);
                // Should the keeper be killed.
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                become_program(device.as_fd(), self.logs);
                rustix::process::umask(self.umask);
                let words = words(self.wish, device.as_fd());
                let mut command = std::process::Command::new(words[0].as_os_str());
                let error = command.args(words[1..].iter().map(Text::as_os_str)).exec();
                let _ = rustix::io::write(&complaint_end, error.to_string().as_bytes());
                kernel::exit_now(127)
            }
            Forked::Parent(pid) => {
                drop(complaint_end);
                let mut reason = String::new();
                let _ = std::fs::File::from(complaint).take(LONGEST_COMPLAINT).read_to_string(&mut reason);
                if reason.is_empty() { Ok(pid) } else { Err(reason) }
            }
        }
    }

    /// Waits for the end of the container, and then for that of the program.
    fn tend(self, program: Pid, queue: &OwnedFd) -> ! {
        let mut asked = [libc::SIGTERM, libc::SIGKILL].into_iter();
        let mut over = false;
        loop {
            while kernel::next_signal(queue.as_fd()).is_some() {}
            loop {
                match rustix::process::wait(WaitOptions::NOHANG) {
                    Ok(Some(_)) | Err(Errno::INTR) => {}
                    Ok(None) => break,
                    Err(_) => kernel::exit_now(0), // nobody is left
                }
            }
            let mut entries = vec![PollFd::new(queue, PollFlags::IN)];
            if !over {
                entries.push(PollFd::new(&self.container, PollFlags::IN));
            }
            let happened = poll(&mut entries, over.then_some(&PATIENCE)).unwrap_or(1);
            if over && happened == 0 {
                let Some(signal) = asked.next() else { kernel::exit_now(1) };
                kernel::kill_group(program, signal);
                for child in children() {
                    kernel::kill(child, signal);
                }
            }
            over |= entries.get(1).is_some_and(|entry| !entry.revents().is_empty());
        }
    }
}

/// Of this process, those included that a program left behind.
fn children() -> Vec<Pid> {
    let listed = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    listed.split_ascii_whitespace().filter_map(|word| Pid::from_raw(word.parse().ok()?)).collect()
}

/// Holds no directory and no stream of the caller's.
fn become_idle() {
    let _ = rustix::process::chdir(c"/");
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}
