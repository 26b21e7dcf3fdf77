//! The container's network: a namespace of its own that a user-mode program (pasta, slirp4netns) connects to the
//! host's network, or an existing namespace that is joined.
//!
//! The program is tended by a *keeper*, process 1 of a PID namespace made for the two. The keeper ends when the process that
//! the caller knows ends, however that happens, and the kernel then ends the program with it; should the keeper be killed,
//! the same. The keeper is forked while the host's network can still be seen, and is a child that wait(2) does not show
//! to the payload. The program finds the container's network by the keeper's entry in /proc: the keeper enters that network
//! and gives up every capability, so that looking at it needs none.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, getpid, pidfd_open};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags, move_into_link_name_space,
    set_capabilities,
};

use super::capabilities;
use super::failure::{Context, Failure};
use super::kernel::{self, Forked};
use crate::plan::{Helper, Identity, Ready};
use crate::text::Text;

/// More than a helper ever has to say.
const LONGEST_COMPLAINT: u64 = 4096;
/// The keeper's word that the network is there.
const CONNECTED: &[u8] = b"ready";
/// The word of the helper's command line that stands for the container's network namespace.
const NAMESPACE: &[u8] = b"NETNS";
/// Where the helper finds the descriptor on which it says that it is ready.
const READY: RawFd = 3;
/// All that a helper is told of the environment.
const HELPER_ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes a network namespace and has `helper` connect it; returns when there is a connection.
///
/// The user namespace that is to own it has been entered.
pub fn connect(helper: &Helper) -> Result<(), Failure> {
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| Failure::because("network", format!("socketpair: {error}")))?;
    let container = pidfd_open(getpid(), PidfdFlags::empty()).failed("network", "pidfd_open")?;
    let keeper =
        kernel::fork_unseen(UnshareFlags::NEWPID | UnshareFlags::NEWNS).failed("network", "clone")?;
    if let Forked::Child = keeper {
        drop(ours);
        Keeper { helper, channel: theirs, container }.keep();
    }
    drop(theirs);
    kernel::unshare(UnshareFlags::NEWNET).failed("userns", "unshare")?;
    furnish().failed("network", "loopback")?;
    let namespace = open("/proc/self/ns/net").failed("network", "open")?;
    send(&ours, namespace.as_fd()).failed("network", "sendmsg")?;
    let mut answer = Vec::new();
    let _ = (&ours).take(LONGEST_COMPLAINT).read_to_end(&mut answer);
    if answer == CONNECTED {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer).trim().to_owned();
    let name = helper.argv.first().map(ToString::to_string).unwrap_or_default();
    Err(Failure::because("network", said).at(&Text::from(name.as_str())))
}

/// What every network of a container's own has: a loopback, and ports below 1024 for anybody, as there is nobody to protect.
pub fn furnish() -> Result<(), Errno> {
    // Older kernels do not know it; then such ports need a capability.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    kernel::loopback_up()
}

/// Joins the network namespace at `path`. One that a user namespace of the caller's owns is entered through that, and then
/// `identity` is seen from there.
pub fn join(path: &Text, identity: &mut Identity) -> Result<(), Failure> {
    let refuse = |call, errno| Failure::new("netns", call, errno).at(path);
    let namespace = rustix::fs::open(
        path.as_os_str(),
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
    )
    .map_err(|errno| refuse("open", errno))?;
    if !kernel::is_network_namespace(namespace.as_fd()) {
        return Err(Failure::because("netns", "it is not a network namespace").at(path));
    }
    if !identity.uid_map.is_empty() {
        let owner =
            kernel::owner_of_namespace(namespace.as_fd()).map_err(|errno| refuse("NS_GET_USERNS", errno))?;
        let here = open("/proc/self/ns/user").map_err(|errno| refuse("open", errno))?;
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| stat.st_ino);
        if inode(owner.as_fd()).ok() != inode(here.as_fd()).ok() {
            move_into_link_name_space(owner.as_fd(), Some(LinkNameSpaceType::User))
                .map_err(|errno| refuse("setns", errno))?;
            see_from_here(identity).ok_or_else(|| {
                Failure::because("netns", "your subordinate ids cannot be mapped there").at(path)
            })?;
        }
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| refuse("setns", errno))
}

/// What the caller's id is called in this user namespace; `None` if more than that one is to be mapped.
fn see_from_here(identity: &mut Identity) -> Option<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    for (map, own) in [(&mut identity.uid_map, uid), (&mut identity.gid_map, gid)] {
        let [range] = map.as_mut_slice() else { return None };
        if range.count != 1 {
            return None;
        }
        range.outside = own;
    }
    Some(())
}

fn open(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Sends a descriptor.
pub fn send(channel: &UnixStream, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let word = [rustix::io::IoSlice::new(b"n")];
    rustix::net::sendmsg(channel, &word, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Receives a descriptor; `None` if the other side has gone.
pub fn receive(channel: &UnixStream) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let mut words = [IoSliceMut::new(&mut word)];
    rustix::net::recvmsg(channel, &mut words, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// Process 1 of the helper's PID namespace.
struct Keeper<'p> {
    helper: &'p Helper,
    channel: UnixStream,
    /// The process that the caller knows: it and the payload are one, or it waits for the payload.
    container: OwnedFd,
}

impl Keeper<'_> {
    fn keep(self) -> ! {
        become_keeper();
        kernel::close_from_but(3, &[self.channel.as_fd(), self.container.as_fd()]);
        match self.start() {
            Ok(started) => self.tend(started),
            Err(reason) => self.complain(&reason),
        }
    }

    /// Forks the helper, which waits until the keeper has entered the container's network.
    fn start(&self) -> Result<Started, String> {
        let said = |call: &str, errno: Errno| format!("{call}: {}", std::io::Error::from(errno));
        let namespace = receive(&self.channel).ok_or("the container's network did not arrive")?;
        kernel::default_action(libc::SIGCHLD);
        kernel::block_signals(true);
        let queue = kernel::signal_queue().map_err(|errno| said("signalfd", errno))?;
        let pipe =
            || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| said("pipe", errno));
        let ((go, go_end), (ready, ready_end), (complaint, complaint_end)) = (pipe()?, pipe()?, pipe()?);
        match kernel::fork().map_err(|errno| said("fork", errno))? {
            Forked::Child => {
                drop(go_end);
                let errno = become_helper(self.helper, go, &ready_end, &complaint_end);
                let text = said(&self.helper.argv[0].to_string(), errno);
                let _ = rustix::io::write(&complaint_end, text.as_bytes());
                kernel::exit_now(127);
            }
            Forked::Parent(pid) => {
                drop((go, ready_end, complaint_end));
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|errno| said("setns", errno))?;
                let none = CapabilitySet::empty();
                let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
                set_capabilities(None, sets).map_err(|errno| said("capset", errno))?;
                let own = rustix::fs::readlink("/proc/self", Vec::new())
                    .map_err(|errno| said("/proc/self", errno))?;
                let path = [b"/proc/", own.as_bytes(), b"/ns/net"].concat();
                rustix::io::write(&go_end, &path).map_err(|errno| said("write", errno))?;
                Ok(Started { pid, queue, ready: Some(ready), complaint })
            }
        }
    }

    /// Tells when there is a connection, and waits for the end of the container or of the helper.
    fn tend(mut self, mut started: Started) -> ! {
        loop {
            let (container, queue) = (self.container.as_fd(), started.queue.as_fd());
            let mut entries =
                vec![PollFd::new(&container, PollFlags::IN), PollFd::new(&queue, PollFlags::IN)];
            if let (Some(ready), Ready::Descriptor) = (&started.ready, self.helper.ready) {
                entries.push(PollFd::new(ready, PollFlags::IN));
            }
            let _ = poll(&mut entries, None);
            let over = !entries[0].revents().is_empty();
            let word = entries.get(2).is_some_and(|entry| !entry.revents().is_empty());
            drop(entries);
            if over {
                kernel::exit_now(0);
            }
            while kernel::next_signal(started.queue.as_fd()).is_some() {}
            if word {
                let ready = started.ready.take();
                let read = ready.map(|fd| rustix::io::read(&fd, &mut [0; 1]));
                if matches!(read, Some(Ok(1))) {
                    self.connected();
                } else {
                    // The helper has ended, and says why below.
                    started.ready = None;
                }
            }
            self.reap(&mut started);
        }
    }

    fn reap(&mut self, started: &mut Started) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == started.pid => {
                    let well = status.exit_status() == Some(0) && self.helper.ready == Ready::Background;
                    if well {
                        self.connected();
                    } else {
                        self.complain(&started.why(status));
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(Errno::INTR) => {}
                // Nobody is left to be tended.
                Err(_) => kernel::exit_now(0),
            }
        }
    }

    fn connected(&mut self) {
        let _ = self.channel.write_all(CONNECTED);
        let _ = self.channel.shutdown(std::net::Shutdown::Both);
    }

    fn complain(&self, reason: &str) -> ! {
        let _ = (&self.channel).write_all(reason.as_bytes());
        kernel::exit_now(1)
    }
}

/// A helper that runs.
struct Started {
    pid: Pid,
    queue: OwnedFd,
    ready: Option<OwnedFd>,
    complaint: OwnedFd,
}

impl Started {
    /// Why the helper ended: its own words, the last of them if there are many.
    fn why(&self, status: WaitStatus) -> String {
        let mut text = vec![0; LONGEST_COMPLAINT as usize];
        let _ = rustix::fs::fcntl_setfl(&self.complaint, OFlags::NONBLOCK);
        let count = rustix::io::read(&self.complaint, &mut text).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..count]);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.contains("to syslog"))
            .collect();
        match lines.last() {
            Some(line) => (*line).to_owned(),
            None => match status.exit_status() {
                Some(number) => format!("it ended with status {number}"),
                None => format!("it was ended by signal {}", status.terminating_signal().unwrap_or(0)),
            },
        }
    }
}

/// Cuts the keeper loose from the terminal, the working directory and the streams of the command.
fn become_keeper() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir(c"/");
    let _ = rustix::thread::set_name(c"soliton-net");
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Executes the helper, once the keeper says where the network is; returns only if that failed.
fn become_helper(helper: &Helper, go: OwnedFd, ready: &OwnedFd, complaint: &OwnedFd) -> Errno {
    let mut place = vec![0; 64];
    match rustix::io::read(&go, &mut place) {
        Ok(count) if count > 0 => place.truncate(count),
        _ => kernel::exit_now(1), // the keeper has gone
    }
    drop(go);
    let _ = rustix::stdio::dup2_stderr(complaint);
    kernel::move_descriptor(ready.as_fd(), READY);
    if let Err(errno) = capabilities::pass_on() {
        return errno;
    }
    for signal in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
        kernel::default_action(signal);
    }
    kernel::block_signals(false);
    let argv: Vec<_> = helper
        .argv
        .iter()
        .map(|word| if word.as_bytes() == NAMESPACE { Text::new(place.clone()) } else { word.clone() })
        .map(|word| word.to_c_string())
        .collect();
    kernel::execve(&argv[0], &argv, &[Text::from(HELPER_ENVIRONMENT).to_c_string()])
}
