//! Who uses what a server holds: a job that runs for hours goes on sharing with what it starts later.
//!
//! It is those who asked, for as long as they live and are in the namespace, and whoever there has the image, also as a layer
//! of an overlay. Where there is no image nobody asks, and it is everybody there but servers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dev, Stat};
use rustix::io::Errno;

use super::key::groups_of;

/// Of more clients than this, those that have ended are forgotten at once.
const MOST_CLIENTS: usize = 4096;
/// The field of /proc/PID/stat (proc(5)) with the time at which a process began, counted behind the name.
const BEGAN: usize = 22 - 3;

/// What processes are called that watch over a container from outside.
const MONITORS: [&str; 3] = ["soliton", "soliton-core", "soliton-hold"];

/// What a directory is called in which an image is to be a layer of an overlay. The kernel shows the names of layers, and nothing
/// else of them: the name has the device (`soliton/api/mounts.py`).
pub fn layer_of(device: Dev) -> String {
    format!("image.{}.{}.layer", rustix::fs::major(device), rustix::fs::minor(device))
}

/// A process that asked, and when it began: the number may go to another.
struct Client {
    pid: i32,
    began: u64,
}

pub struct Users {
    namespace: OwnedFd,
    own: Stat,
    /// How the image shows in /proc/PID/mountinfo.
    marks: Option<[String; 2]>,
    clients: Vec<Client>,
}

impl Users {
    /// device: of the image, if there is one.
    pub fn new(namespace: OwnedFd, device: Option<Dev>) -> Result<Users, Errno> {
        let marks = device.map(|device| {
            let number = format!(" {}:{} ", rustix::fs::major(device), rustix::fs::minor(device));
            [number, layer_of(device)]
        });
        Ok(Users { own: rustix::fs::fstat(&namespace)?, namespace, marks, clients: Vec::new() })
    }

    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Remembers a process that asked, unless it has ended since.
    pub fn note(&mut self, pid: i32) {
        if self.clients.len() >= MOST_CLIENTS {
            self.clients.retain(|client| beginning_of(client.pid) == Some(client.began));
        }
        if let Some(began) = beginning_of(pid) {
            self.clients.push(Client { pid, began });
        }
    }

    /// Whether anybody is left.
    pub fn are_left(&mut self) -> bool {
        let (own, marks) = (&self.own, &self.marks);
        self.clients
            .retain(|client| is_in(own, client.pid) && beginning_of(client.pid) == Some(client.began));
        if !self.clients.is_empty() {
            return true;
        }
        let Ok(entries) = std::fs::read_dir("/proc") else { return false };
        let this = std::process::id() as i32;
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != this)
            .any(|pid: i32| match marks {
                Some(marks) => is_readably_in(own, pid) && has(pid, marks),
                None if is_readably_in(own, pid) => !text(pid, "comm").starts_with("soliton-"),
                None => watches(pid),
            })
    }
}

fn namespace_of(pid: i32) -> Result<Stat, Errno> {
    rustix::fs::stat(format!("/proc/{pid}/ns/user").as_str())
}

fn is_readably_in(own: &Stat, pid: i32) -> bool {
    namespace_of(pid).is_ok_and(|found| (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino))
}

/// Whether a client is in the namespace, as far as it lets anybody know: the process that watches over a container does not.
fn is_in(own: &Stat, pid: i32) -> bool {
    is_readably_in(own, pid) || matches!(namespace_of(pid), Err(Errno::ACCESS | Errno::PERM))
}

/// Whether a process has the image.
fn has(pid: i32, marks: &[String; 2]) -> bool {
    let mounts = text(pid, "mountinfo");
    marks.iter().any(|mark| mounts.contains(mark.as_str()))
}

/// Whether a process, which does not let anybody know where it is, may watch over a container of this user's in this job.
fn watches(pid: i32) -> bool {
    let user = format!("\nUid:\t{}\t", rustix::process::geteuid().as_raw());
    let groups = |of: &str| std::fs::read(format!("/proc/{of}/cgroup")).map(|text| groups_of(&text)).ok();
    matches!(namespace_of(pid), Err(Errno::ACCESS | Errno::PERM))
        && MONITORS.contains(&text(pid, "comm").trim_end())
        && text(pid, "status").contains(&user)
        && groups("self") == groups(&pid.to_string())
}

fn text(pid: i32, file: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// When a process began, in ticks since the machine did.
fn beginning_of(pid: i32) -> Option<u64> {
    // Behind the name, which may hold anything but ends with the last parenthesis.
    text(pid, "stat").rsplit(')').next()?.split_ascii_whitespace().nth(BEGAN)?.parse().ok()
}
