//! The verb `join`: runs a command in the namespaces of an instance that is there already.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Deserialize;

use super::failure::{self, Context, Failure};
use super::init::{self, Inside};
use super::{FAILURE, kernel};
use crate::plan::Plan;
use crate::request;
use crate::text::Text;

/// In the order in which they are entered: the first gives the right to enter the others, and behind the mount namespace
/// nothing of the host's can be opened any more.
const NAMESPACES: [&str; 7] = ["user", "ipc", "uts", "net", "cgroup", "pid_for_children", "mnt"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// Of its plan count the identity and the process; the rest has been carried out by the instance.
    plan: Plan,
    /// The instance's monitor, and when it started (field 22 of its `stat`, proc(5)).
    pid: i32,
    start: u64,
}

/// The verb; returns the exit status if the command could not be executed.
pub fn run(fd: RawFd) -> i32 {
    let request: Request = match request::read(fd) {
        Ok(request) => request,
        Err(message) => {
            failure::fatal("the plan of the container cannot be used", &[&message]);
            return FAILURE;
        }
    };
    failure::say_up_to(request.plan.level);
    let umask = rustix::process::umask(Mode::empty());
    match enter(&request) {
        Err(failure) => failure::report(&request.plan.reporter, &failure),
        Ok(inside) => match super::start(&request.plan, umask, super::file_limit(), inside, None) {
            Err(failure) => {
                failure::explain(&failure);
                return super::status_of(&failure);
            }
            Ok(never) => match never {},
        },
    }
    FAILURE
}

/// Enters every namespace of the instance that this process is not in already.
fn enter(request: &Request) -> Result<Option<Inside>, Failure> {
    let gone = || Failure::because("instance", "it has ended");
    let pid = Pid::from_raw(request.pid).ok_or_else(gone)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    let mut opened = Vec::new();
    for name in NAMESPACES {
        opened.extend(differing(request.pid, name)?.map(|namespace| (name, namespace)));
    }
    // Only now is it certain whose these are: the process still lives, and is the one that was recorded.
    if started(request.pid) != Some(request.start) || super::instance::has_ended(&process) {
        return Err(gone());
    }
    // Whoever is inside may look at every process that comes there.
    kernel::hide().failed("confinement", "prctl")?;
    let mut other_processes = false;
    for (name, namespace) in opened {
        move_into_link_name_space(namespace.as_fd(), kind_of(name)).map_err(|errno| {
            Failure::new("instance", "setns", errno).with(format!("the {name} namespace"))
        })?;
        other_processes |= name == "pid_for_children";
    }
    if other_processes { init::enter_as_another() } else { Ok(None) }
}

fn kind_of(name: &str) -> Option<LinkNameSpaceType> {
    Some(match name {
        "user" => LinkNameSpaceType::User,
        "ipc" => LinkNameSpaceType::InterProcessCommunication,
        "uts" => LinkNameSpaceType::HostNameAndNISDomainName,
        "net" => LinkNameSpaceType::Network,
        "cgroup" => LinkNameSpaceType::ControlGroup,
        "mnt" => LinkNameSpaceType::Mount,
        _ => LinkNameSpaceType::ProcessID,
    })
}

/// A namespace of another process, unless this process is in it too.
fn differing(pid: i32, name: &str) -> Result<Option<OwnedFd>, Failure> {
    let open = |path: &str| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let path = format!("/proc/{pid}/ns/{name}");
    let theirs = match open(&path) {
        Ok(theirs) => theirs,
        Err(Errno::NOENT)
            if rustix::fs::access(format!("/proc/{pid}").as_str(), rustix::fs::Access::EXISTS).is_err() =>
        {
            return Err(Failure::because("instance", "it has ended"));
        }
        Err(errno) => return Err(Failure::new("instance", "open", errno).at(&Text::from(path.as_str()))),
    };
    let ours = open(&format!("/proc/self/ns/{name}")).failed("instance", "open")?;
    let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let same =
        identity(&ours).failed("instance", "fstat")? == identity(&theirs).failed("instance", "fstat")?;
    Ok((!same).then_some(theirs))
}

/// When a process started, in clock ticks since boot.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_ascii_whitespace().nth(19)?.parse().ok()
}
