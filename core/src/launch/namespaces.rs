//! The namespaces of a container, all but the PID namespace (`init.rs`).

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use super::failure::{Context, Failure};
use super::{identity, network};
use crate::plan::{Namespace, Plan};
use crate::text::Text;

/// Enters the identity's user namespace, a mount namespace, and those the plan names. shared: a user namespace that has
/// the identity's maps already.
pub fn enter(plan: &Plan, shared: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
    let mut flags = UnshareFlags::NEWNS;
    let mut wanted = vec!["mnt"];
    wanted.extend((!plan.identity.uid_map.is_empty()).then_some("user"));
    for (namespace, flag, name) in [
        (Namespace::Ipc, UnshareFlags::NEWIPC, "ipc"),
        (Namespace::Uts, UnshareFlags::NEWUTS, "uts"),
        (Namespace::Net, UnshareFlags::NEWNET, "net"),
        (Namespace::Cgroup, UnshareFlags::NEWCGROUP, "cgroup"),
    ] {
        flags.set(flag, plan.has(namespace));
        wanted.extend((plan.has(namespace) && !(name == "net" && plan.netns.is_some())).then_some(name));
    }
    let before = Seen::look(&wanted)?;
    // A network that a helper connects is made when the helper is there.
    let connected = plan.helper.as_ref().filter(|_| flags.contains(UnshareFlags::NEWNET));
    flags.set(UnshareFlags::NEWNET, flags.contains(UnshareFlags::NEWNET) && connected.is_none());
    match (&plan.netns, shared) {
        (None, Some(namespace)) => {
            identity::join(namespace, flags)?;
            identity::read_back(&plan.identity)?;
        }
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
    before.all_differ(&wanted)?;
    match &plan.hostname {
        // Without a UTS namespace of its own this would be the host's name.
        Some(name) if plan.has(Namespace::Uts) => {
            rustix::system::sethostname(name.as_bytes()).failed("userns", "sethostname")
        }
        _ => Ok(()),
    }
}

/// Which namespaces this process was in: what was asked for is read back, not believed.
struct Seen(Vec<(u64, u64)>);

impl Seen {
    fn look(names: &[&str]) -> Result<Seen, Failure> {
        let look = |name: &&str| {
            let path = format!("/proc/self/ns/{name}");
            rustix::fs::stat(path.as_str()).map(|stat| (stat.st_dev, stat.st_ino)).failed_at(
                "confinement",
                "stat",
                &Text::from(path.as_str()),
            )
        };
        names.iter().map(look).collect::<Result<Vec<_>, _>>().map(Seen)
    }

    fn all_differ(&self, names: &[&str]) -> Result<(), Failure> {
        let now = Seen::look(names)?;
        match names.iter().zip(self.0.iter().zip(&now.0)).find(|(_, (before, now))| before == now) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Failure::because("confinement", format!("the {name} namespace did not take effect")))
            }
        }
    }
}

/// Whether ids here are the machine's own.
pub fn is_initial_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}
