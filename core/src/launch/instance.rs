//! Containers in the background: the verb `instance` starts one and stays as its monitor, outside.
//!
//! Three processes, as in a foreground launch with a PID namespace: the *monitor*, process 1 inside, the payload. All
//! are in a session of their own, so a terminal that closes ends none of them, and the payload leads a process group.
//! Unlike a foreground launch, the container outlives its payload: services that a startscript leaves behind, or
//! commands that join it later, keep working until the instance is stopped.
//!
//! What ends it: a signal to the monitor is passed to process 1 and from there to the payload's group. Once an end
//! was asked for and nothing is left to wait for, process 1 goes, and with it all that is inside; then the monitor takes
//! the record away. When the monitor is killed, process 1 sees the channel between them end, and goes; the record is
//! then stale and is taken away by whoever next looks at it.
//!
//! Those who join come by the door (`door.rs`). A container that processes share (`--sharens`) has no payload of its own, and ends
//! with the last who came in; without a PID namespace it has no process inside at all: the monitor holds its namespaces.
//!
//! An image that is booted (`--boot`) has its own process 1: the image's init takes the place of ours. What the monitor is sent it
//! gets as it is, and the container ends when it does.
//!
//! Nobody may look into the monitor: in the user namespace of containers it is the one that has things of the host's open.
//!
//! The words to whoever starts it, on `channel`: `pid N` (process 1), `ready` when all but executing is done, then a byte
//! from there (the record is written), then nothing more if the payload was executed, else `failed STATUS`. If the starter
//! goes before that byte, so does everything here.

use std::cell::RefCell;
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::process::{Pid, PidfdFlags, WaitIdOptions, WaitOptions};
use serde::Deserialize;

use super::door::Door;
use super::failure::{Context, Failure};
use super::init::{SIGNALS, end_of};
use super::kernel::{self, Forked};
use super::process::Command;
use super::{capabilities, carry_out};
use crate::plan::{Action, Capabilities, Namespace, Plan};
use crate::request;
use crate::text::Text;

/// Sent to the monitor by who wants the instance to end, after the signal that was chosen for it.
const END: i32 = libc::SIGPWR;
/// The same, from the monitor to process 1.
const END_WORD: u8 = 0;
/// To wait for a child's end without taking its status away.
const ENDED: WaitIdOptions = WaitIdOptions::EXITED.union(WaitIdOptions::NOWAIT);
/// Copies of one signal, sent to a group of these processes, arrive within this time.
const SAME_SIGNAL: Duration = Duration::from_millis(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    plan: Plan,
    channel: RawFd,
    /// Where the payload's output and errors go.
    out: RawFd,
    err: RawFd,
    /// The directory that holds this instance's directory of records, and the name of that.
    records: RawFd,
    name: Text,
    title: Text,
    /// A listening socket, what to show there, and whether the instance ends with the last who came in.
    door: RawFd,
    token: Text,
    shared: bool,
}

/// What an instance has and a foreground launch has not.
pub struct Instance {
    channel: OwnedFd,
    out: OwnedFd,
    err: OwnedFd,
    records: OwnedFd,
    name: Text,
    title: Text,
    /// None once nobody is let in any more.
    door: RefCell<Option<Door>>,
    shared: bool,
    /// Whoever starts it.
    starter: Option<OwnedFd>,
}

/// The verb `instance`: becomes the monitor; returns the exit status if there was nothing to watch over.
pub fn run(fd: RawFd) -> i32 {
    let request: Request = match request::read(fd) {
        Ok(request) => request,
        Err(message) => {
            super::failure::fatal("the plan of the container cannot be used", &[&message]);
            return super::FAILURE;
        }
    };
    let own = |fd| {
        let fd = OwnedFd::from(request::take_descriptor(fd));
        let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
        fd
    };
    let door = match Door::new(own(request.door), request.token, request.shared) {
        Ok(door) => door,
        Err(errno) => {
            super::failure::fatal(
                "the instance cannot be started",
                &[&format!("/proc/self/ns: {}", std::io::Error::from(errno))],
            );
            return super::FAILURE;
        }
    };
    let instance = Instance {
        channel: own(request.channel),
        out: own(request.out),
        err: own(request.err),
        records: own(request.records),
        name: request.name,
        title: request.title,
        door: RefCell::new(Some(door)),
        shared: request.shared,
        starter: rustix::process::getppid()
            .and_then(|starter| rustix::process::pidfd_open(starter, PidfdFlags::empty()).ok()),
    };
    let _ = rustix::process::setsid();
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
    carry_out(&request.plan, Some(&instance), None)
}

impl Instance {
    /// Where output and errors go.
    pub fn logs(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.out.as_fd(), self.err.as_fd())
    }

    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Where there is no PID namespace: holds the namespaces until nobody is left, or it is told to go.
    pub fn hold(&self, plan: &Plan) -> Result<Infallible, Failure> {
        kernel::block_signals(true);
        let queue = kernel::signal_queue().failed("userns", "signalfd")?;
        give_up_capabilities(plan)?;
        kernel::hide().failed("confinement", "prctl")?;
        self.say(&format!("pid {}\n", rustix::process::getpid().as_raw_nonzero()));
        if !self.await_record() {
            self.forget();
            kernel::exit_now(super::FAILURE);
        }
        let _ = rustix::thread::set_name(c"soliton-hold");
        kernel::set_title(self.title.as_bytes());
        self.keep_open(&[queue.as_fd()]);
        loop {
            let mut over = !self.attend();
            if !over {
                self.wait_for(&[queue.as_fd()], true);
            }
            while let Some(arrived) = kernel::next_signal(queue.as_fd()) {
                over |= arrived.signal != libc::SIGCHLD && !arrived.by_kernel;
            }
            if over {
                self.forget();
                kernel::exit_now(0);
            }
        }
    }

    /// In a process inside that has no program of its own to become: it ends once the instance is known.
    pub fn stand_by(&self) -> ! {
        if !self.await_record() {
            kernel::kill_first(END);
            kernel::exit_now(super::FAILURE);
        }
        kernel::exit_now(0)
    }

    /// Watches over process 1 from outside.
    pub fn watch(&self, child: Pid, inside: BorrowedFd<'_>, queue: BorrowedFd<'_>, plan: &Plan) -> ! {
        self.say(&format!("pid {}\n", child.as_raw_nonzero()));
        kernel::set_title(self.title.as_bytes());
        // The monitor only waits; a mistake in it is to be worth nothing.
        let _ = give_up_capabilities(plan);
        let _ = kernel::hide();
        self.keep_open(&[inside, queue]);
        let _ = rustix::process::chdir(c"/");
        let mut starter = self.starter.as_ref();
        let mut recorded = false;
        loop {
            // Before that the container is not complete.
            recorded |= self.is_recorded();
            let mut over = recorded && !self.attend();
            if !over {
                let mut waited_for = vec![queue];
                waited_for.extend(starter.map(AsFd::as_fd));
                self.wait_for(&waited_for, recorded);
            }
            if starter.is_some_and(has_ended) {
                starter = None;
                // Killed before others could know of this instance: nobody would ever end it.
                over |= !self.is_recorded();
            }
            while let Some(arrived) = kernel::next_signal(queue) {
                if arrived.signal == libc::SIGCHLD || arrived.by_kernel {
                    continue;
                }
                if plan.process.action == Action::Boot {
                    kernel::kill(child, arrived.signal);
                } else {
                    let word = if arrived.signal == END { END_WORD } else { arrived.signal as u8 };
                    let _ = send(inside, &[word], SendFlags::NOSIGNAL);
                }
            }
            if over {
                // Whoever comes now has to make another one.
                self.door.take();
                kernel::kill(child, libc::SIGKILL);
                let _ = rustix::process::waitid(rustix::process::WaitId::Pid(child), ENDED);
            }
            if let Ok(Some((_, status))) = rustix::process::waitpid(Some(child), WaitOptions::NOHANG)
                && let Some(status) = end_of(status)
            {
                self.forget();
                kernel::exit_now(status);
            }
        }
    }

    /// Sees to who is at the door. False: it is a shared container, and nobody is left.
    fn attend(&self) -> bool {
        self.door.borrow_mut().as_mut().is_none_or(Door::attend)
    }

    /// Waits for something to happen. at_door: also there; else for a moment only, since nothing tells when the record is there.
    fn wait_for(&self, others: &[BorrowedFd<'_>], at_door: bool) {
        let door = self.door.borrow();
        let door = door.as_ref().filter(|_| at_door);
        let mut entries: Vec<PollFd<'_>> =
            others.iter().map(|other| PollFd::from_borrowed_fd(*other, PollFlags::IN)).collect();
        entries.extend(
            door.iter().flat_map(|door| door.events()).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let _ = poll(&mut entries, if at_door { None } else { Some(&moment) });
    }

    /// Takes the record away. Nobody else does while this process lives.
    fn forget(&self) {
        self.door.take();
        let _ = rustix::fs::unlinkat(&self.records, self.record(), AtFlags::empty());
        // Fails if somebody has taken the name meanwhile.
        let _ = rustix::fs::unlinkat(&self.records, self.name.as_bytes(), AtFlags::REMOVEDIR);
    }

    fn record(&self) -> Vec<u8> {
        [self.name.as_bytes(), b"/", self.name.as_bytes(), b".json"].concat()
    }

    fn is_recorded(&self) -> bool {
        rustix::fs::accessat(&self.records, self.record(), Access::EXISTS, AtFlags::empty()).is_ok()
    }

    fn keep_open(&self, others: &[BorrowedFd<'_>]) {
        let mut keep = others.to_vec();
        keep.push(self.records.as_fd());
        keep.extend(self.starter.as_ref().map(AsFd::as_fd));
        let door = self.door.borrow();
        keep.extend(door.iter().flat_map(Door::descriptors));
        kernel::close_all_but(&keep);
    }

    /// Leaves process 1 behind to tend the payload; returns in the payload, which leads a group of its own.
    pub fn become_payload(&self, inside: OwnedFd) -> Result<(), Failure> {
        let queue = kernel::signal_queue().failed("userns", "signalfd")?;
        match kernel::fork().failed("userns", "fork")? {
            Forked::Child => rustix::process::setpgid(None, None).failed("userns", "setpgid"),
            Forked::Parent(payload) => {
                kernel::close_all_but(&[inside.as_fd(), queue.as_fd()]);
                let _ = rustix::thread::set_name(c"soliton-init");
                let payload = Some(payload);
                Tender { payload, inside, queue, asked: None, passed: [None; SIGNALS] }.tend()
            }
        }
    }

    /// Executes the payload, its output going to the logs; returns only if that failed.
    pub fn execute(&self, command: &Command, nothing_to_do: bool) -> Result<Infallible, Failure> {
        if !self.await_record() {
            kernel::kill_first(END);
            kernel::exit_now(super::FAILURE);
        }
        if nothing_to_do {
            kernel::exit_now(0);
        }
        for signal in 1..SIGNALS as i32 {
            kernel::default_action(signal);
        }
        let complaints = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3);
        let _ = rustix::stdio::dup2_stdout(&self.out);
        let _ = rustix::stdio::dup2_stderr(&self.err);
        let result = command.execute();
        if let Ok(complaints) = complaints {
            let _ = rustix::stdio::dup2_stderr(&complaints);
        }
        result
    }

    /// Tells the starter that the payload will not be executed, whose reason has been told, and with which status that ends.
    pub fn failed(&self, status: i32) {
        self.say(&format!("failed {status}\n"));
    }

    /// Says that all is ready, and waits until the instance can be found by others. False if the starter is gone.
    fn await_record(&self) -> bool {
        self.say("ready\n");
        loop {
            match rustix::io::read(&self.channel, &mut [0]) {
                Ok(1) => return true,
                Err(Errno::INTR) => {}
                _ => return false,
            }
        }
    }

    fn say(&self, words: &str) {
        let _ = send(&self.channel, words.as_bytes(), SendFlags::NOSIGNAL);
    }
}

/// Asks what the payload left behind to end. What a shell starts with `&` does not listen to SIGINT.
fn end_others(signal: i32) {
    kernel::kill_others(signal);
    kernel::kill_others(libc::SIGTERM);
}

/// Whether the process of a pidfd has ended.
pub fn has_ended(process: &OwnedFd) -> bool {
    let mut entry = [PollFd::new(process, PollFlags::IN)];
    poll(&mut entry, Some(&Timespec::default())) != Ok(0)
}

/// Where the process has them only over what is inside.
fn give_up_capabilities(plan: &Plan) -> Result<(), Failure> {
    if plan.identity.uid_map.is_empty() { Ok(()) } else { capabilities::keep(&Capabilities::None) }
}

/// Whether an instance of this plan has a process inside of its own.
pub fn has_process(plan: &Plan) -> bool {
    plan.has(Namespace::Pid)
}

/// Process 1 of an instance.
struct Tender {
    payload: Option<Pid>,
    inside: OwnedFd,
    queue: OwnedFd,
    /// The signal by which the instance was asked to end.
    asked: Option<i32>,
    /// When each signal was passed on last.
    passed: [Option<Instant>; SIGNALS],
}

impl Tender {
    fn tend(mut self) -> ! {
        loop {
            let mut entries =
                [PollFd::new(&self.queue, PollFlags::IN), PollFd::new(&self.inside, PollFlags::IN)];
            let _ = poll(&mut entries, None);
            let word = !entries[1].revents().is_empty();
            while let Some(arrived) = kernel::next_signal(self.queue.as_fd()) {
                match arrived.signal {
                    libc::SIGCHLD => {}
                    END => self.end(libc::SIGTERM),
                    _ if arrived.by_kernel => {}
                    signal => self.pass_on(signal),
                }
            }
            if word {
                self.hear();
            }
            self.reap();
        }
    }

    fn hear(&mut self) {
        let mut words = [0; 64];
        match rustix::io::read(&self.inside, &mut words) {
            Ok(0) => kernel::exit_now(128 + libc::SIGKILL),
            Ok(count) => {
                for &word in &words[..count] {
                    if word == END_WORD {
                        self.end(libc::SIGTERM);
                    } else {
                        self.pass_on(i32::from(word));
                    }
                }
            }
            Err(_) => {}
        }
    }

    fn pass_on(&mut self, signal: i32) {
        let Some(passed) = self.passed.get_mut(signal as usize) else { return };
        if passed.is_some_and(|when| when.elapsed() < SAME_SIGNAL) {
            return;
        }
        *passed = Some(Instant::now());
        match self.payload {
            Some(payload) => drop(kernel::kill_group(payload, signal)),
            None => kernel::kill_others(signal),
        }
        if matches!(signal, libc::SIGINT | libc::SIGTERM | libc::SIGQUIT) {
            self.asked.get_or_insert(signal);
        }
    }

    /// Asked to end: by this signal, if it was not by another one just before.
    fn end(&mut self, signal: i32) {
        let signal = *self.asked.get_or_insert(signal);
        if self.payload.is_none() {
            end_others(signal);
        }
    }

    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.payload && end_of(status).is_some() => {
                    self.payload = None;
                    if let Some(signal) = self.asked {
                        end_others(signal);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(Errno::CHILD) => {
                    if let Some(signal) = self.asked {
                        kernel::exit_now(128 + signal);
                    }
                    return;
                }
                Err(_) => return,
            }
        }
    }
}
