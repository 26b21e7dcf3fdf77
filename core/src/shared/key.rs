//! Who may share a server: a name made of everything that two launches must have in common.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use sha2::{Digest, Sha256};

use crate::plan::{IdRange, Identity, ImageRoot};

/// Changes whenever a server of this program would not do for one of another version.
const VERSION: u32 = 1;
/// Bytes of the digest that make the name.
const LENGTH: usize = 16;

/// The server's name: the image as it is now, who is mapped to whom, the job, and the namespaces that it starts from.
pub fn of(identity: &Identity, root: &ImageRoot, file: &File) -> Option<String> {
    let mut key = Key(Sha256::new());
    key.number(u64::from(VERSION));
    key.text(env!("CARGO_PKG_VERSION").as_bytes());
    let image = file.metadata().ok()?;
    for number in [
        image.dev(),
        image.ino(),
        image.size(),
        image.mtime() as u64,
        image.mtime_nsec() as u64,
        image.ctime() as u64,
        image.ctime_nsec() as u64,
        root.offset,
        root.size,
        root.ids as u64,
    ] {
        key.number(number);
    }
    key.identity(identity);
    for kind in ["user", "mnt", "pid"] {
        key.text(std::fs::read_link(format!("/proc/self/ns/{kind}")).ok()?.as_os_str().as_encoded_bytes());
    }
    let top = std::fs::metadata("/").ok()?;
    key.number(top.dev());
    key.number(top.ino());
    key.text(&job(&std::fs::read("/proc/self/cgroup").ok()?));
    let digest = key.0.finalize();
    Some(digest[..LENGTH].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The control groups of a job, without the part that each of its tasks has of its own (`task_3` below a Slurm step).
///
/// A server belongs to the group it was started in, and ends with it: so it is shared within that group only.
fn job(groups: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in groups.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let components = line.split(|&byte| byte == b'/');
        let kept: Vec<&[u8]> = components.take_while(|name| !name.starts_with(b"task_")).collect();
        text.extend_from_slice(&kept.join(&b'/'));
        text.push(b'\n');
    }
    text
}

struct Key(Sha256);

impl Key {
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
        assert_eq!(job(step(0, 0).as_bytes()), job(step(0, 1).as_bytes()));
        assert_ne!(job(step(0, 0).as_bytes()), job(step(1, 0).as_bytes()));
        assert_ne!(job(b"0::/user.slice/session-1.scope\n"), job(b"0::/user.slice/session-2.scope\n"));
    }
}
