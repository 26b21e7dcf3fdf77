//! The label that the kernel's security module gives the payload at its next execve(2): SELinux or AppArmor.
//!
//! Written in the payload's own process, to a file that is known to be procfs's and no imitation of the image's, and read
//! back.

use std::io::{Read, Write};

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC};

use super::failure::{Context, Failure};
use crate::plan::{Label, LabelKind};

const LONGEST: u64 = 8192;

/// Asks for the label; an error if it was not taken.
pub fn apply(label: &Label) -> Result<(), Failure> {
    let (places, word): (&[&str], Vec<u8>) = match label.kind {
        LabelKind::Selinux => (&["exec"], label.value.as_bytes().to_vec()),
        LabelKind::Apparmor => (&["apparmor/exec", "exec"], [b"exec ", label.value.as_bytes()].concat()),
    };
    let mut refused = Failure::because("confinement", "this kernel knows no such labels");
    for place in places {
        let path = format!("/proc/thread-self/attr/{place}");
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::open(path.as_str(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(errno) => {
                refused = Failure::new("confinement", "open", errno).with(path);
                continue;
            }
        };
        if rustix::fs::fstatfs(&file).failed("confinement", "fstatfs")?.f_type != PROC_SUPER_MAGIC {
            return Err(Failure::because("confinement", format!("{path} is not the kernel's")));
        }
        let mut file = std::fs::File::from(file);
        let said = |error: std::io::Error| {
            Failure::because("confinement", format!("the label {} was refused: {error}", label.value))
        };
        file.write_all(&word).map_err(said)?;
        let mut now = Vec::new();
        let mut again = std::fs::File::open(&path).map_err(said)?;
        Read::by_ref(&mut again).take(LONGEST).read_to_end(&mut now).map_err(said)?;
        // AppArmor tells the mode behind the name.
        let text = String::from_utf8_lossy(&now).trim_end_matches(['\0', '\n']).to_owned();
        let name = if label.kind == LabelKind::Apparmor {
            text.rsplit_once(" (").map_or(text.as_str(), |(name, _)| name)
        } else {
            &text
        };
        if name.as_bytes() == label.value.as_bytes() {
            return Ok(());
        }
        return Err(Failure::because(
            "confinement",
            format!("the label {} did not take effect", label.value),
        ));
    }
    Err(refused)
}
