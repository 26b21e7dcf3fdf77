//! The verb `probe`: tries, in a child that is thrown away, what a launch needs of this machine.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::{WaitOptions, getgid, getuid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::Failure;
use super::kernel::{self, Forked};
use super::session::Session;
use super::{identity, trees};
use crate::plan::{IdRange, Identity};
use crate::request::{self, Asking};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// A map of ids to try as well.
    #[serde(default)]
    identity: Option<Identity>,
    events: RawFd,
}

impl Asking for Request {
    fn events(&self) -> RawFd {
        self.events
    }
}

/// How one attempt went.
#[derive(Serialize)]
struct Outcome {
    ok: bool,
    errno: i32,
    call: &'static str,
    detail: String,
}

impl From<Result<(), Failure>> for Outcome {
    fn from(result: Result<(), Failure>) -> Outcome {
        match result {
            Ok(()) => Outcome { ok: true, errno: 0, call: "", detail: String::new() },
            Err(failure) => {
                Outcome { ok: false, errno: failure.errno, call: failure.call, detail: failure.detail }
            }
        }
    }
}

/// The verb; returns the exit status.
pub fn run(fd: RawFd) -> i32 {
    request::answer(fd, |request: Request, _| {
        let mut record = in_child(everything);
        if let Some(identity) = &request.identity {
            record.extend(in_child(|found| found.add("idmap", identity::enter(identity))));
        }
        Ok::<_, Failure>(record)
    })
}

/// What has been found, in the child.
#[derive(Default)]
struct Found(Map<String, Value>);

impl Found {
    /// Notes an attempt; true if it went well.
    fn add(&mut self, name: &str, result: Result<(), Failure>) -> bool {
        let ok = result.is_ok();
        self.0.insert(name.to_owned(), serde_json::to_value(Outcome::from(result)).unwrap_or_default());
        ok
    }
}

/// Runs attempts in a child and takes over what it found.
fn in_child(attempts: impl FnOnce(&mut Found) -> bool) -> Map<String, Value> {
    let Ok((mut ours, mut theirs)) = UnixStream::pair() else { return Map::new() };
    match kernel::fork() {
        Err(_) => Map::new(),
        Ok(Forked::Child) => {
            drop(ours);
            let mut found = Found::default();
            attempts(&mut found);
            let _ = theirs.write_all(&serde_json::to_vec(&found.0).unwrap_or_default());
            kernel::exit_now(0);
        }
        Ok(Forked::Parent(child)) => {
            drop(theirs);
            let mut text = Vec::new();
            let _ = ours.read_to_end(&mut text);
            let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
            serde_json::from_slice(&text).unwrap_or_default()
        }
    }
}

/// Every attempt that builds on the ones before it.
fn everything(found: &mut Found) -> bool {
    found.add("seccomp", seccomp());
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let own = |id| vec![IdRange { inside: id, outside: id, count: 1 }];
    let identity = Identity {
        uid,
        gid,
        uid_map: own(uid),
        gid_map: own(gid),
        newuidmap: None,
        newgidmap: None,
        groups: Vec::new(),
        keep_groups: false,
    };
    let mut entered = true;
    if !found.add("userns", identity::enter(&identity)) {
        entered = false;
    }
    let failed = |call| move |errno| Failure::new("probe", call, errno);
    let mounts = kernel::unshare(UnshareFlags::NEWNS).map_err(failed("unshare"));
    entered &= found.add("mountns", mounts.and_then(|()| tmpfs()));
    found.add("fuse", fuse(uid, gid));
    found.add("procfs_in_pidns", procfs());
    if entered {
        // Last, as it covers a directory of the host.
        found.add("overlay", overlay());
    } else {
        found.add("overlay", Err(Failure::new("probe", "unshare", Errno::PERM)));
    }
    entered
}

fn tmpfs() -> Result<(), Failure> {
    let tree = trees::tmpfs(4096, 0o755, trees::INERT);
    tree.map(drop).map_err(|errno| Failure::new("probe", "fsopen", errno))
}

fn overlay() -> Result<(), Failure> {
    let session = Session::start()?;
    session.directory("lower")?;
    session.directory("upper")?;
    session.directory("work")?;
    let (lower, upper, work) = (session.path("lower"), session.path("upper"), session.path("work"));
    let options = [
        ("lowerdir", lower.as_bytes()),
        ("upperdir", upper.as_bytes()),
        ("workdir", work.as_bytes()),
        ("userxattr", b"".as_slice()),
    ];
    trees::new("overlay", &options, trees::INERT)
        .map(drop)
        .map_err(|(errno, detail)| Failure::new("probe", "overlay", errno).with(detail))
}

fn fuse(uid: u32, gid: u32) -> Result<(), Failure> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(c"/dev/fuse", flags, Mode::empty())
        .map_err(|errno| Failure::new("probe", "open", errno))?;
    mount_fuse(&device, uid, gid).map_err(|errno| Failure::new("probe", "fsopen", errno))
}

fn mount_fuse(device: &OwnedFd, uid: u32, gid: u32) -> Result<(), Errno> {
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let (fd, uid, gid) = (device.as_raw_fd().to_string(), uid.to_string(), gid.to_string());
    let pairs = [("fd", fd.as_str()), ("rootmode", "40000"), ("user_id", &uid), ("group_id", &gid)];
    for (key, value) in pairs {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let none = MountAttrFlags::empty();
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, none).map(drop)
}

/// A new procfs can only be made by a member of a new PID namespace.
fn procfs() -> Result<(), Failure> {
    let failed = |call| move |errno| Failure::new("probe", call, errno);
    kernel::unshare(UnshareFlags::NEWPID).map_err(failed("unshare"))?;
    match kernel::fork().map_err(failed("fork"))? {
        Forked::Child => kernel::exit_now(match trees::new("proc", &[], trees::INERT) {
            Ok(_) => 0,
            Err((errno, _)) => errno.raw_os_error(),
        }),
        Forked::Parent(child) => {
            let status = rustix::process::waitpid(Some(child), WaitOptions::empty())
                .map_err(failed("waitpid"))?
                .and_then(|(_, status)| status.exit_status());
            match status {
                Some(0) => Ok(()),
                Some(errno) => Err(Failure::new("probe", "fsopen", Errno::from_raw_os_error(errno))),
                None => Err(Failure::because("probe", "the child was killed")),
            }
        }
    }
}

fn seccomp() -> Result<(), Failure> {
    kernel::filters_are_known().map_err(|errno| Failure::new("probe", "seccomp", errno))
}
