//! Who the payload is: entering a user namespace and mapping ids into it (user_namespaces(7)).
//!
//! A map of one id is written by the process itself. A larger one needs a privilege of the parent
//! namespace: a helper child that stays there runs `newuidmap`/`newgidmap`, or writes the map itself
//! where the caller may.

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::failure::{Context, Failure};
use super::kernel::{self, Forked};
use crate::plan::{IdRange, Identity};
use crate::text::Text;

/// More than a helper ever has to say.
const LONGEST_COMPLAINT: u64 = 4096;
/// More than the 340 lines of a map (user_namespaces(7)).
const LONGEST_MAP: u64 = 1 << 16;

/// Enters the identity's user namespace; does nothing where it has none.
///
/// The process must have one thread. Afterwards it has every capability over what its ids own, and the
/// same rights as before over everything else.
pub fn enter(identity: &Identity) -> Result<(), Failure> {
    enter_with(identity, UnshareFlags::empty())
}

/// Enters the user namespace and, in the same call, the other namespaces named.
pub fn enter_with(identity: &Identity, others: UnshareFlags) -> Result<(), Failure> {
    if identity.uid_map.is_empty() {
        return kernel::unshare(others).failed("userns", "unshare");
    }
    let maps = [Map::of_users(identity), Map::of_groups(identity)];
    let helper = if maps.iter().all(Map::is_single) { None } else { Some(Helper::start(&maps)?) };
    kernel::unshare(others | UnshareFlags::NEWUSER).failed("userns", "unshare")?;
    if identity.keep_groups {
        // Only before the groups are mapped.
        write_file("/proc/self/setgroups", "deny").failed("userns", "setgroups")?;
    }
    if let Some(helper) = helper {
        helper.finish()?;
    }
    for map in maps.iter().filter(|map| map.is_single()) {
        map.write_own()?;
    }
    if identity.keep_groups
        && std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|word| word.trim() != "deny")
    {
        return Err(Failure::because("confinement", "the groups could be changed after all"));
    }
    maps.iter().try_for_each(Map::read_back)
}

/// Enters a user namespace that another process made and mapped, and new namespaces of the other kinds.
pub fn join(namespace: BorrowedFd<'_>, others: UnshareFlags) -> Result<(), Failure> {
    rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
        .failed("userns", "setns")?;
    kernel::unshare(others).failed("userns", "unshare")
}

/// Compares the maps of the namespace that this process is in with those asked for.
pub fn read_back(identity: &Identity) -> Result<(), Failure> {
    [Map::of_users(identity), Map::of_groups(identity)].iter().try_for_each(Map::read_back)
}

struct Map<'a> {
    /// File below `/proc/PID`, also the name of the step in a failure.
    file: &'static str,
    ranges: &'a [IdRange],
    /// The set-user-id program that writes it.
    program: Option<&'a Text>,
}

impl<'a> Map<'a> {
    fn of_users(identity: &'a Identity) -> Map<'a> {
        Map { file: "uid_map", ranges: &identity.uid_map, program: identity.newuidmap.as_ref() }
    }

    fn of_groups(identity: &'a Identity) -> Map<'a> {
        Map { file: "gid_map", ranges: &identity.gid_map, program: identity.newgidmap.as_ref() }
    }

    fn is_single(&self) -> bool {
        matches!(self.ranges, [range] if range.count == 1)
    }

    fn text(&self) -> String {
        self.ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect()
    }

    /// Writes the map of a single id, from inside the new namespace.
    fn write_own(&self) -> Result<(), Failure> {
        if self.file == "gid_map" {
            // The kernel's condition for an unprivileged group map (CVE-2014-8989).
            write_file("/proc/self/setgroups", "deny").failed("userns", "setgroups")?;
        }
        write_file(&format!("/proc/self/{}", self.file), &self.text()).failed("userns", self.file)
    }

    /// Compares the kernel's map with the one asked for, which no helper can be trusted to have written.
    fn read_back(&self) -> Result<(), Failure> {
        let path = format!("/proc/self/{}", self.file);
        let text = read(&path).map_err(|error| Failure::new("confinement", self.file, errno_of(&error)))?;
        let sorted = |text: &str| {
            let numbers = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect();
            let mut lines: Vec<Vec<String>> = text.lines().map(numbers).collect();
            lines.sort();
            lines
        };
        if sorted(&text) == sorted(&self.text()) {
            Ok(())
        } else {
            Err(Failure::because("confinement", format!("{} is not what was asked for", self.file)))
        }
    }

    /// Writes the map of process `pid`, from outside its namespace. The error is a sentence.
    fn write_for(&self, pid: Pid) -> Result<(), String> {
        let Some(program) = self.program else {
            return write_file(&format!("/proc/{}/{}", pid.as_raw_nonzero(), self.file), &self.text())
                .map_err(|errno| format!("{}: {errno}", self.file));
        };
        let mut command = Command::new(program.as_os_str());
        command.arg(pid.as_raw_nonzero().to_string());
        for range in self.ranges {
            command.args([range.inside.to_string(), range.outside.to_string(), range.count.to_string()]);
        }
        let result = command.output().map_err(|error| format!("{program}: {error}"))?;
        if result.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&result.stderr);
        Err(match said.trim() {
            "" => format!("{program}: {}", result.status),
            said => said.to_owned(),
        })
    }
}

fn write_file(path: &str, text: &str) -> Result<(), Errno> {
    let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(|error| errno_of(&error))?;
    file.write_all(text.as_bytes()).map_err(|error| errno_of(&error))
}

/// Reads a file of /proc, mostly in one piece.
fn read(path: &str) -> std::io::Result<String> {
    let mut text = String::with_capacity(4096);
    std::fs::File::open(path)?.take(LONGEST_MAP).read_to_string(&mut text)?;
    Ok(text)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// A child in the parent namespace that writes the maps once its parent has unshared.
struct Helper {
    pid: Pid,
    channel: UnixStream,
}

impl Helper {
    fn start(maps: &[Map<'_>]) -> Result<Helper, Failure> {
        let target = getpid();
        let (ours, theirs) =
            UnixStream::pair().map_err(|error| Failure::new("idmap", "socketpair", errno_of(&error)))?;
        match kernel::fork().failed("idmap", "fork")? {
            Forked::Parent(pid) => Ok(Helper { pid, channel: ours }),
            Forked::Child => {
                drop(ours);
                kernel::exit_now(Helper::serve(theirs, maps, target));
            }
        }
    }

    /// Waits for the word, writes the maps, tells what went wrong. Runs in the child.
    fn serve(mut channel: UnixStream, maps: &[Map<'_>], target: Pid) -> i32 {
        if channel.read_exact(&mut [0]).is_err() {
            return 1; // The parent could not unshare.
        }
        for map in maps.iter().filter(|map| !map.is_single()) {
            if let Err(complaint) = map.write_for(target) {
                let _ = channel.write_all(complaint.as_bytes());
                return 1;
            }
        }
        0
    }

    fn finish(mut self) -> Result<(), Failure> {
        let mut complaint = Vec::new();
        let _ = self.channel.write_all(b"!");
        let _ = (&mut self.channel).take(LONGEST_COMPLAINT).read_to_end(&mut complaint);
        let status = loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                other => break other.failed("idmap", "waitpid")?,
            }
        };
        if status.is_some_and(|(_, status)| status.exit_status() == Some(0)) {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Err(Failure { call: "newuidmap", ..Failure::because("idmap", complaint) })
    }
}

/// Whether some id of the payload's namespace is `id`.
pub fn maps_inside(ranges: &[IdRange], id: u32) -> bool {
    ranges.is_empty() || ranges.iter().any(|r| id >= r.inside && id - r.inside < r.count)
}
