//! A PID namespace: who waits outside, who is process 1, and how signals and the exit status travel.
//!
//! Three processes at most: the *launcher*, which the caller knows; *init*, process 1 inside; the payload.
//! All are in one process group, so what a terminal sends (Ctrl-C, Ctrl-Z, hang-up) reaches the payload
//! without help and is passed on by nobody. What is sent to the launcher alone goes through the channel to
//! init and from there to the payload. A sender may also have named the whole group or each process: then
//! init has a copy of its own, and so has the payload, and the launcher's word is dropped.
//!
//! When the payload stops, the launcher stops, so that a shell sees the job stopped. When the launcher dies,
//! init sees the channel end and takes everything inside with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid};
use rustix::thread::UnshareFlags;

use super::failure::{Context, Failure};
use super::instance::Instance;
use super::kernel::{self, Arrived, Forked};
use crate::plan::{Action, Namespace, Plan, Process};

/// How far apart the copies of one signal to several processes may arrive.
const SAME_SIGNAL: Duration = Duration::from_millis(20);
/// How long init waits for a copy of its own before it passes a signal on.
const OWN_COPY: Duration = Duration::from_millis(2);
/// Signals whose number fits into a byte of the channel: all of them.
pub const SIGNALS: usize = 65;

/// What process 1 holds of the launcher outside.
pub struct Inside {
    channel: OwnedFd,
}

/// Enters a PID namespace if the plan has one. Returns in process 1 only; the launcher waits and exits.
///
/// instance: who watches over the container instead of a launcher.
pub fn enter(plan: &Plan, instance: Option<&Instance>) -> Result<Option<Inside>, Failure> {
    if !plan.has(Namespace::Pid) {
        return Ok(None);
    }
    kernel::unshare(UnshareFlags::NEWPID).failed("userns", "unshare")?;
    let inside = become_inner(plan.process.init, |child, channel, queue| {
        if let Some(instance) = instance {
            instance.watch(child, channel, queue, plan);
        }
    })?;
    // Read back: this is the first process of a new namespace.
    if getpid().as_raw_nonzero().get() == 1 {
        Ok(Some(inside))
    } else {
        Err(Failure::because("confinement", "the PID namespace did not take effect"))
    }
}

/// In a PID namespace that was joined and has a process 1 already. Returns in a process inside; the launcher waits.
pub fn enter_as_another() -> Result<Option<Inside>, Failure> {
    become_inner(false, |_, _, _| {}).map(Some)
}

/// Forks: the child goes on inside, this process waits for it outside, unless `otherwise` has something else to do.
fn become_inner(
    has_init: bool,
    otherwise: impl FnOnce(Pid, BorrowedFd<'_>, BorrowedFd<'_>),
) -> Result<Inside, Failure> {
    let flags = SocketFlags::CLOEXEC;
    let (outside, inside) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).failed("userns", "socketpair")?;
    // A caller that ignores SIGCHLD would have statuses thrown away.
    kernel::default_action(libc::SIGCHLD);
    kernel::block_signals(true);
    let queue = kernel::signal_queue().failed("userns", "signalfd")?;
    match kernel::fork().failed("userns", "fork")? {
        Forked::Child => {
            die_with_parent()?;
            Ok(Inside { channel: inside })
        }
        Forked::Parent(child) => {
            drop(inside);
            // Changes of identity have undone it.
            stay_attached();
            otherwise(child, outside.as_fd(), queue.as_fd());
            kernel::close_all_but(&[outside.as_fd(), queue.as_fd()]);
            let _ = rustix::process::chdir(c"/"); // holds no directory of the host's
            kernel::hide().failed("confinement", "prctl")?;
            Launcher { child, channel: outside, queue, has_init }.wait()
        }
    }
}

/// The process that this one is attached to, 0 without one.
static CALLER: AtomicI32 = AtomicI32::new(0);

/// From now on this process, and the container with it, ends when its caller does, however that ends.
pub fn attach_to_caller() {
    CALLER.store(parent(), Ordering::Relaxed);
    stay_attached();
}

fn stay_attached() {
    let caller = CALLER.load(Ordering::Relaxed);
    if caller != 0 {
        let _ = die_with_parent();
        if parent() != caller {
            kernel::exit_now(137);
        }
    }
}

fn parent() -> i32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get())
}

fn die_with_parent() -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).failed("userns", "prctl")
}

impl Inside {
    /// Leaves process 1 behind to tend the payload, or makes it the payload; returns in the payload.
    pub fn become_payload(self, process: &Process, instance: Option<&Instance>) -> Result<(), Failure> {
        // Changes of identity have undone it.
        die_with_parent()?;
        let boots = process.action == Action::Boot;
        if let Some(instance) = instance.filter(|_| !boots) {
            return instance.become_payload(self.channel);
        }
        if boots || !process.init {
            return if is_closed(self.channel.as_fd()) { kernel::exit_now(137) } else { Ok(()) };
        }
        let queue = kernel::signal_queue().failed("userns", "signalfd")?;
        match kernel::fork().failed("userns", "fork")? {
            Forked::Child => Ok(()),
            Forked::Parent(payload) => {
                kernel::close_all_but(&[self.channel.as_fd(), queue.as_fd()]);
                let _ = rustix::thread::set_name(c"soliton-init");
                Init { payload, channel: self.channel, queue, own: [None; SIGNALS] }.tend()
            }
        }
    }
}

/// Whether the other end of the channel is gone.
fn is_closed(channel: BorrowedFd<'_>) -> bool {
    let mut entry = [PollFd::new(&channel, PollFlags::empty())];
    poll(&mut entry, Some(&Timespec::default())).is_ok()
        && entry[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// The process that the caller waits for.
struct Launcher {
    child: Pid,
    channel: OwnedFd,
    queue: OwnedFd,
    has_init: bool,
}

impl Launcher {
    fn wait(self) -> ! {
        let mut channel_open = true;
        loop {
            let mut entries = vec![PollFd::new(&self.queue, PollFlags::IN)];
            if channel_open {
                entries.push(PollFd::new(&self.channel, PollFlags::IN));
            }
            let _ = poll(&mut entries, None);
            let word = entries.get(1).is_some_and(|entry| !entry.revents().is_empty());
            drop(entries);
            while let Some(arrived) = kernel::next_signal(self.queue.as_fd()) {
                self.handle(arrived);
            }
            if word {
                channel_open = self.hear();
            }
        }
    }

    fn handle(&self, arrived: Arrived) {
        if arrived.signal == libc::SIGCHLD {
            self.look_at_child();
        } else if arrived.by_kernel {
            // The terminal's: every process of the group has it.
        } else if self.has_init {
            tell(self.channel.as_fd(), arrived.signal as u8);
        } else {
            kernel::kill(self.child, arrived.signal);
        }
    }

    fn look_at_child(&self) {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((_, status))) = rustix::process::waitpid(Some(self.child), options) {
            match end_of(status) {
                Some(status) => kernel::exit_now(status),
                None if status.stopped() => stop(),
                None => {}
            }
        }
    }

    /// Init's word: the payload has stopped. False when init is gone.
    fn hear(&self) -> bool {
        match rustix::io::read(&self.channel, &mut [0; 16]) {
            Ok(0) => false,
            Ok(_) => {
                stop();
                true
            }
            Err(errno) => errno == Errno::INTR,
        }
    }
}

/// Puts a word into the channel. If the other side is gone there is nobody to tell; SIGPIPE, which would come
/// back by the queue of signals and be passed on in turn, is not sent.
fn tell(channel: BorrowedFd<'_>, word: u8) {
    let _ = send(channel, &[word], SendFlags::NOSIGNAL);
}

/// Stops this process until somebody continues it.
fn stop() {
    kernel::kill(getpid(), libc::SIGSTOP);
}

/// The exit status that a shell would give; None if the process has not ended.
pub fn end_of(status: WaitStatus) -> Option<i32> {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}

/// Process 1.
struct Init {
    payload: Pid,
    channel: OwnedFd,
    queue: OwnedFd,
    /// When a copy of each signal came to this process from outside, not asked about yet.
    own: [Option<Instant>; SIGNALS],
}

impl Init {
    fn tend(mut self) -> ! {
        loop {
            let mut entries =
                [PollFd::new(&self.queue, PollFlags::IN), PollFd::new(&self.channel, PollFlags::IN)];
            let _ = poll(&mut entries, None);
            let word = !entries[1].revents().is_empty();
            self.take_signals();
            if word {
                self.hear();
            }
        }
    }

    fn take_signals(&mut self) {
        while let Some(arrived) = kernel::next_signal(self.queue.as_fd()) {
            if arrived.signal == libc::SIGCHLD {
                self.reap();
            } else if arrived.by_kernel {
                // The terminal's: the payload has it.
            } else if arrived.sender == 0 {
                // From outside, to the whole group; or to this process alone, which nobody has reason to do.
                if let Some(own) = self.own.get_mut(arrived.signal as usize) {
                    *own = Some(Instant::now());
                }
            } else {
                kernel::kill(self.payload, arrived.signal);
            }
        }
    }

    fn reap(&self) {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = rustix::process::wait(options) {
            if pid != self.payload {
                continue;
            }
            match end_of(status) {
                // The kernel ends whatever else is inside.
                Some(status) => kernel::exit_now(status),
                None if status.stopped() => {
                    tell(self.channel.as_fd(), b's');
                }
                None => {}
            }
        }
    }

    /// Signals that the launcher was sent.
    fn hear(&mut self) {
        let mut signals = [0; 64];
        match rustix::io::read(&self.channel, &mut signals) {
            Ok(0) => kernel::exit_now(128 + libc::SIGKILL),
            Ok(count) => {
                for &signal in &signals[..count] {
                    if !self.had_own_copy(usize::from(signal)) {
                        kernel::kill(self.payload, i32::from(signal));
                    }
                }
            }
            Err(_) => {}
        }
    }

    fn had_own_copy(&mut self, signal: usize) -> bool {
        // Continuing twice is continuing once, and must not wait.
        if signal == libc::SIGCONT as usize || signal >= SIGNALS {
            return false;
        }
        let until = Instant::now() + OWN_COPY;
        loop {
            if self.own[signal].take().is_some_and(|when| when.elapsed() < SAME_SIGNAL) {
                return true;
            }
            let Some(rest) = until.checked_duration_since(Instant::now()) else { return false };
            let timeout = Timespec { tv_sec: 0, tv_nsec: rest.subsec_nanos().into() };
            let _ = poll(&mut [PollFd::new(&self.queue, PollFlags::IN)], Some(&timeout));
            self.take_signals();
        }
    }
}
