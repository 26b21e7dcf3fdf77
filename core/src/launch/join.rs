//! The verb `join`: runs a command in the namespaces of an instance that is there already.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use rustix::fs::Mode;
use rustix::io::FdFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Deserialize;

use super::failure::{self, Context, Failure};
use super::fusemount::Programs;
use super::init::{self, Inside};
use super::{FAILURE, kernel};
use crate::plan::Plan;
use crate::request;

/// In the order in which they are entered: the first gives the right to enter the others, and behind the mount namespace
/// nothing of the host's can be opened any more.
pub const NAMESPACES: [&str; 7] = ["user", "ipc", "uts", "net", "cgroup", "pid_for_children", "mnt"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// Of its plan count the identity and the process; the rest has been carried out by the instance.
    plan: Plan,
    /// As they were handed out at the instance's door, in the order of `NAMESPACES`.
    namespaces: Vec<RawFd>,
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
    let handed = super::handed::look();
    let umask = rustix::process::umask(Mode::empty());
    match enter(&request) {
        Err(failure) => failure::report(&request.plan.reporter, &failure),
        Ok(inside) => {
            let assembled = super::Assembled { inside, programs: Programs::default(), notes: None };
            match super::start(&request.plan, umask, super::file_limit(), assembled, None, handed) {
                Err(failure) => {
                    failure::explain(&failure);
                    return super::status_of(&failure);
                }
                Ok(never) => match never {},
            }
        }
    }
    FAILURE
}

/// Enters every namespace of the instance that this process is not in already.
fn enter(request: &Request) -> Result<Option<Inside>, Failure> {
    if request.namespaces.len() != NAMESPACES.len() {
        return Err(Failure::because("instance", "it has ended"));
    }
    let mut opened = Vec::new();
    for (name, fd) in NAMESPACES.into_iter().zip(&request.namespaces) {
        let theirs = OwnedFd::from(request::take_descriptor(*fd));
        rustix::io::fcntl_setfd(&theirs, FdFlags::CLOEXEC).failed("instance", "fcntl")?;
        if differs(name, &theirs)? {
            opened.push((name, theirs));
        }
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

/// Whether a namespace is another one than this process is in.
fn differs(name: &str, theirs: &OwnedFd) -> Result<bool, Failure> {
    let ours = rustix::fs::stat(format!("/proc/self/ns/{name}").as_str()).failed("instance", "stat")?;
    let theirs = rustix::fs::fstat(theirs).failed("instance", "fstat")?;
    Ok((ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino))
}
