//! Who may share what: names made of everything that two launches must have in common, for one server the image too.

use std::os::unix::fs::MetadataExt;

use rustix::fs::Stat;
use sha2::{Digest, Sha256};

use crate::plan::{IdRange, Identity, ImageRoot};

/// Changes whenever a server of this program would not do for one of another version.
const VERSION: u32 = 4;
/// Bytes of a digest that make a name.
const LENGTH: usize = 16;

/// What stands in the name of a server for the image, where it has none (`soliton/api/mounts.py`).
const WITHOUT_IMAGE: &str = "namespace";

/// The names by which launches find each other.
pub struct Key {
    /// Of those who may be in one user namespace: who is mapped to whom, the job, and the namespaces that they start from.
    pub job: String,
    /// Of those who may share a server besides: the image as it is now, if there is one. Begins with the job's.
    pub server: String,
}

/// image: where it is, and its status. `None`: it is the user namespace alone that is shared.
pub fn of(identity: &Identity, image: Option<(&ImageRoot, &Stat)>) -> Option<Key> {
    let mut job = Hash(Sha256::new());
    job.number(u64::from(VERSION));
    job.text(env!("CARGO_PKG_VERSION").as_bytes());
    job.identity(identity);
    for kind in ["user", "mnt", "pid"] {
        job.text(std::fs::read_link(format!("/proc/self/ns/{kind}")).ok()?.as_os_str().as_encoded_bytes());
    }
    let top = std::fs::metadata("/").ok()?;
    job.number(top.dev());
    job.number(top.ino());
    job.text(&groups_of(&std::fs::read("/proc/self/cgroup").ok()?));

    let job = job.text_form();
    let Some((root, status)) = image else {
        let server = format!("{job}-{WITHOUT_IMAGE}");
        return Some(Key { job, server });
    };
    let mut image = Hash(Sha256::new());
    for number in [
        status.st_dev,
        status.st_ino,
        status.st_size as u64,
        status.st_mtime as u64,
        status.st_mtime_nsec,
        status.st_ctime as u64,
        status.st_ctime_nsec,
        root.offset,
        root.size,
        root.ids as u64,
    ] {
        image.number(number);
    }
    let server = format!("{job}-{}", image.text_form());
    Some(Key { job, server })
}

/// The control groups of a job, without the part that each of its tasks has of its own (`task_3` below a Slurm step).
///
/// A server belongs to the group it was started in, and ends with it: so it is shared within that group only.
pub fn groups_of(groups: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in groups.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let components = line.split(|&byte| byte == b'/');
        let kept: Vec<&[u8]> = components.take_while(|name| !name.starts_with(b"task_")).collect();
        text.extend_from_slice(&kept.join(&b'/'));
        text.push(b'\n');
    }
    text
}

/// Whether a server of this name has no image.
pub fn is_without_image(name: &str) -> bool {
    name.strip_suffix(WITHOUT_IMAGE).is_some_and(|job| job.ends_with('-'))
}

struct Hash(Sha256);

impl Hash {
    fn text_form(self) -> String {
        self.0.finalize()[..LENGTH].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn identity(&mut self, identity: &Identity) {
        let ids = [rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()];
        for id in [identity.uid, identity.gid, ids[0], ids[1]] {
            self.number(u64::from(id));
        }
        for ranges in [&identity.uid_map, &identity.gid_map] {
            self.number(ranges.len() as u64);
            for IdRange { inside, outside, count } in ranges {
                for id in [inside, outside, count] {
                    self.number(u64::from(*id));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_one_step_are_one_job_and_steps_are_not() {
        let step = |n, task| format!("0::/slurm/uid_1000/job_7/step_{n}/user/task_{task}\n");
        assert_eq!(groups_of(step(0, 0).as_bytes()), groups_of(step(0, 1).as_bytes()));
        assert_ne!(groups_of(step(0, 0).as_bytes()), groups_of(step(1, 0).as_bytes()));
        assert_ne!(
            groups_of(b"0::/user.slice/session-1.scope\n"),
            groups_of(b"0::/user.slice/session-2.scope\n")
        );
    }
}
