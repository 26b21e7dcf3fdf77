//! Opening what a plan names, and nothing that has been put in its place since it was looked at.
//!
//! Whoever made the plan looked at an image: is it whole, may it be used here? The path may lead elsewhere by now: a link has
//! changed, a file was replaced. So what is open is compared, and nothing else of it is ever opened by path.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::Stat;

use crate::plan::Seen;
use crate::text::Text;

/// Opens a file and its status; ESTALE if it is not the one that was seen.
pub fn file(path: &Text, seen: Seen, write: bool) -> Result<(File, Stat)> {
    // A named pipe in its place would keep us waiting.
    let flags = libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path.as_path())?;
    let status = rustix::fs::fstat(&file)?;
    if !is_same(seen, &status) {
        return Err(Error::from_raw_os_error(libc::ESTALE));
    }
    Ok((file, status))
}

/// Whether what is open is what was seen.
pub fn is_same(seen: Seen, status: &Stat) -> bool {
    seen.is_none_or(|seen| seen == (status.st_dev, status.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_seen_is_opened() {
        let own = std::env::current_exe().unwrap();
        let path = Text::new(own.as_os_str().as_encoded_bytes());
        let status = file(&path, None, false).unwrap().1;
        let seen = (status.st_dev, status.st_ino);
        assert!(file(&path, Some(seen), false).is_ok());
        for other in [(seen.0, seen.1 + 1), (seen.0 + 1, seen.1)] {
            let error = file(&path, Some(other), false).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
        }
    }
}
