//! One writer or many readers of a range of a file, on every machine that sees it: a lock of the open file, so that it
//! lasts as long as the server that has the file open and ends with it, however that comes about. Other programs
//! that lock ranges (POSIX) are met.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::io::Errno;

/// A server that only has to write the last of what was changed is waited for: this is its name.
pub const FINISHING: &str = "soliton-finish";
/// How often it is looked whether a holder of another name goes away, and how far apart. Not how long: where the machine stood still
/// nobody could go.
const LOOKS: u32 = 100;
const STEP: Duration = Duration::from_millis(10);

/// Takes the lock, or says that somebody else has it (EAGAIN). A file system without locks has none.
pub fn take(file: &File, start: u64, length: u64, write: bool) -> Result<(), Errno> {
    let mut looks = 0;
    loop {
        // Asked first, for who has finished meanwhile has given the lock back.
        let patient = looks < LOOKS || is_finishing(file);
        match try_once(file, start, length, write) {
            Err(Errno::AGAIN | Errno::ACCESS) => {}
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return Ok(()),
            other => return other,
        }
        if !patient {
            return Err(Errno::AGAIN);
        }
        looks = looks.saturating_add(1);
        std::thread::sleep(STEP);
    }
}

fn try_once(file: &File, start: u64, length: u64, write: bool) -> Result<(), Errno> {
    let kind = if write { libc::F_WRLCK } else { libc::F_RDLCK };
    let request = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as libc::off_t,
        l_len: length as libc::off_t,
        l_pid: 0,
    };
    // SAFETY: the kernel reads the structure during the call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if done == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// Whether a server of this user's is about to let go of the file.
fn is_finishing(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(ours) = file.metadata() else { return false };
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let path = process.path();
        let named = std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == FINISHING);
        named
            && std::fs::read_dir(path.join("fd")).is_ok_and(|open| {
                open.flatten().any(|fd| {
                    std::fs::metadata(fd.path())
                        .is_ok_and(|other| (other.dev(), other.ino()) == (ours.dev(), ours.ino()))
                })
            })
    })
}
