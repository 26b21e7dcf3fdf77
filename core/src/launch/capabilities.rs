//! The capabilities a payload starts with (capabilities(7)), and the proof that it has no others.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_ambient_set, capability_is_in_bounding_set,
    clear_ambient_capability_set, configure_capability_in_ambient_set, remove_capability_from_bounding_set,
    set_capabilities,
};

use super::failure::{Context, Failure};
use crate::plan::Capabilities;

/// Names without `CAP_`, in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The set of these names, with or without `CAP_`, in any case.
fn parse(names: &[String]) -> Result<CapabilitySet, Failure> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = NAMES.iter().position(|known| *known == bare).ok_or_else(|| {
            Failure::because("capability", format!("there is no capability called `{name}`"))
        })?;
        set |= CapabilitySet::from_bits_retain(1 << number);
    }
    Ok(set)
}

/// Leaves this process, and what it executes, the capabilities of the plan.
pub fn keep(wanted: &Capabilities) -> Result<(), Failure> {
    let set = match wanted {
        Capabilities::All => return Ok(()),
        Capabilities::None => CapabilitySet::empty(),
        Capabilities::Names(names) => parse(names)?,
    };
    limit(set).failed("capability", "capset")?;
    if is_limited_to(set).failed("capability", "capget")? {
        Ok(())
    } else {
        Err(Failure::because("capability", "the capabilities are not those that were asked for"))
    }
}

/// A program that is not root's keeps the capabilities of its user namespace only if it is told so.
pub fn pass_on() -> Result<(), Errno> {
    let own = capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: own.permitted, ..own })?;
    for one in each().filter(|one| own.permitted.contains(*one)) {
        configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

fn each() -> impl Iterator<Item = CapabilitySet> {
    (0..64).map(|number| CapabilitySet::from_bits_retain(1 << number))
}

fn limit(set: CapabilitySet) -> Result<(), Errno> {
    clear_ambient_capability_set()?;
    let own = capabilities(None)?;
    for one in each() {
        match capability_is_in_bounding_set(one) {
            Ok(true) if !set.contains(one) && own.effective.contains(CapabilitySet::SETPCAP) => {
                remove_capability_from_bounding_set(one)?;
            }
            Ok(_) => {}
            Err(Errno::INVAL) => break, // beyond the last one this kernel knows
            Err(errno) => return Err(errno),
        }
    }
    let kept = set & own.permitted;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
    for one in each().filter(|one| set.contains(*one)) {
        configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

/// Reads back: every set is the one asked for. The bounding set only limits, so it may be wider where this
/// process could not narrow it, which then only matters to programs that no_new_privs disarms.
fn is_limited_to(set: CapabilitySet) -> Result<bool, Errno> {
    let now = capabilities(None)?;
    if now.effective != set || now.permitted != set || now.inheritable != set {
        return Ok(false);
    }
    for one in each() {
        match capability_is_in_ambient_set(one) {
            Ok(present) if present != set.contains(one) => return Ok(false),
            Ok(_) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_with_and_without_prefix() {
        let set = parse(&["CAP_CHOWN".into(), "net_raw".into(), "CHECKPOINT_RESTORE".into()]).unwrap();
        let wanted = CapabilitySet::CHOWN | CapabilitySet::NET_RAW | CapabilitySet::CHECKPOINT_RESTORE;
        assert_eq!(set, wanted);
        assert_eq!(parse(&["CAP_FLY".into()]).unwrap_err().code, "capability");
    }
}
