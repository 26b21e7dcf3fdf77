//! The namespaces of a container, all but the PID namespace (`init.rs`).

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use super::failure::{Context, Failure};
use super::{identity, network};
use crate::plan::{Namespace, Plan};

/// Enters the identity's user namespace, a mount namespace, and those the plan names. shared: a user namespace that has
/// the identity's maps already.
pub fn enter(plan: &Plan, shared: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
    let mut flags = UnshareFlags::NEWNS;
    for (namespace, flag) in [
        (Namespace::Ipc, UnshareFlags::NEWIPC),
        (Namespace::Uts, UnshareFlags::NEWUTS),
        (Namespace::Net, UnshareFlags::NEWNET),
        (Namespace::Cgroup, UnshareFlags::NEWCGROUP),
    ] {
        flags.set(flag, plan.has(namespace));
    }
    // A network that a helper connects is made when the helper is there.
    let connected = plan.helper.as_ref().filter(|_| flags.contains(UnshareFlags::NEWNET));
    flags.set(UnshareFlags::NEWNET, flags.contains(UnshareFlags::NEWNET) && connected.is_none());
    match (&plan.netns, shared) {
        (None, Some(namespace)) => identity::join(namespace, flags)?,
        (None, None) => identity::enter_with(&plan.identity, flags)?,
        (Some(path), _) => {
            let mut identity = plan.identity.clone();
            network::join(path, &mut identity)?;
            identity::enter_with(&identity, flags)?;
        }
    }
    if plan.identity.uid_map.is_empty() {
        // In a new user namespace the kernel has done this: what the host mounts still arrives here
        // (autofs), and nothing done here reaches the host.
        let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change(c"/", propagation)
            .or_else(|errno| match errno {
                // A chroot: its root is no mount, so what is around it is made a mount of its own.
                Errno::INVAL => rustix::mount::mount_bind_recursive(c"/", c"/"),
                errno => Err(errno),
            })
            .failed("mount", "mount")?;
    }
    match connected {
        Some(helper) => network::connect(helper)?,
        None if plan.has(Namespace::Net) => network::furnish().failed("userns", "loopback")?,
        None => {}
    }
    match &plan.hostname {
        // Without a UTS namespace of its own this would be the host's name.
        Some(name) if plan.has(Namespace::Uts) => {
            rustix::system::sethostname(name.as_bytes()).failed("userns", "sethostname")
        }
        _ => Ok(()),
    }
}

/// Whether ids here are the machine's own.
pub fn is_initial_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}
