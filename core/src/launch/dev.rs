//! A /dev with nothing in it that a container does not need: bound device nodes, links, shm, its own pts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::failure::{Context, Failure};
use super::identity::maps_inside;
use super::{resolve, trees};
use crate::plan::{Namespace, Plan};

/// Nodes bound from the host, where it has them.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Links and where they lead.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// The group `tty` wherever devpts is mounted.
const TTY: u32 = 5;

/// What goes into a minimal /dev, opened while the host's can be seen.
pub struct Minimal {
    nodes: Vec<(&'static str, OwnedFd)>,
    file_systems: Vec<(&'static str, OwnedFd)>,
}

impl Minimal {
    pub fn open(plan: &Plan, with_pts: bool) -> Result<Minimal, Failure> {
        let mut nodes = Vec::with_capacity(NODES.len() + 1);
        for name in NODES {
            match trees::of_host(format!("/dev/{name}")) {
                Ok(tree) => nodes.push((name, tree)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Failure::new("mount", "open_tree", errno).with(name)),
            }
        }
        if let Some(terminal) = terminal() {
            nodes.push(("console", terminal));
        }
        let shm = trees::new("tmpfs", &[("mode", b"1777")], trees::INERT);
        let mut file_systems = vec![("shm", shm.map_err(|e| refused("tmpfs", e))?)];
        if with_pts {
            file_systems.push(("pts", pts(plan)?));
        }
        if plan.has(Namespace::Ipc) {
            let attributes = trees::INERT | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            let mqueue = trees::new("mqueue", &[], attributes).map_err(|e| refused("mqueue", e))?;
            file_systems.push(("mqueue", mqueue));
        }
        Ok(Minimal { nodes, file_systems })
    }

    /// Fills the directory, a file system of this container's own.
    pub fn fill(self, directory: BorrowedFd<'_>) -> Result<(), Failure> {
        for (name, tree) in &self.nodes {
            let point = resolve::make_file(directory, name.as_bytes(), Mode::from_raw_mode(0o666));
            point
                .and_then(|point| trees::attach(tree.as_fd(), point.as_fd()))
                .failed("mount", "move_mount")?;
        }
        for (name, tree) in &self.file_systems {
            let point = resolve::make_directory(directory, name.as_bytes(), Mode::from_raw_mode(0o755));
            point
                .and_then(|point| trees::attach(tree.as_fd(), point.as_fd()))
                .failed("mount", "move_mount")?;
        }
        for (name, target) in LINKS {
            rustix::fs::symlinkat(target, directory, name).failed("mount", "symlink")?;
        }
        Ok(())
    }
}

fn pts(plan: &Plan) -> Result<OwnedFd, Failure> {
    let tty = TTY.to_string();
    let mut options: Vec<(&str, &[u8])> =
        vec![("newinstance", b""), ("ptmxmode", b"0666"), ("mode", b"0620")];
    if maps_inside(&plan.identity.gid_map, TTY) {
        options.push(("gid", tty.as_bytes()));
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    trees::new("devpts", &options, attributes).map_err(|error| refused("devpts", error))
}

fn refused(file_system: &'static str, (errno, detail): (Errno, String)) -> Failure {
    Failure::new("mount", file_system, errno).with(detail)
}

/// The terminal of one of the standard streams, which the container's own pts will not know.
fn terminal() -> Option<OwnedFd> {
    let stream = (0..3).find(|&fd| {
        // SAFETY: the descriptor is only asked about during the call; a closed one is an error.
        rustix::termios::isatty(unsafe { BorrowedFd::borrow_raw(fd) })
    })?;
    let path = rustix::fs::readlink(format!("/proc/self/fd/{stream}"), Vec::new()).ok()?;
    if !path.as_bytes().starts_with(b"/dev/") {
        return None;
    }
    trees::of_host(path.as_c_str()).ok()
}
