//! The verb `ext-make`: an empty ext3 file system in a range of an open file.

use std::os::fd::{AsFd, RawFd};

use serde::Deserialize;

use super::make::{self, Wish};
use crate::request::{self, Events};
use crate::text::Text;

/// `id`: 32 hexadecimal digits. The range is zero already.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    fd: RawFd,
    offset: u64,
    size: u64,
    uid: u32,
    gid: u32,
    mode: u32,
    directories: Vec<Text>,
    id: String,
    events: RawFd,
}

/// The verb; returns the exit status.
pub fn run(fd: RawFd) -> i32 {
    let request: Request = match request::read(fd) {
        Ok(request) => request,
        Err(message) => {
            crate::launch::failure::fatal(&message, &[]);
            return 255;
        }
    };
    let events = Events::new(request.events);
    let file = request::take_descriptor(request.fd);
    let number = u128::from_str_radix(&request.id, 16).unwrap_or_default();
    let wish = Wish {
        uid: request.uid,
        gid: request.gid,
        mode: request.mode,
        directories: request.directories.iter().map(Text::as_bytes).collect(),
        id: number.to_be_bytes(),
    };
    let made = match rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 3) {
        Ok(own) => make::make(own.into(), request.offset, request.size, &wish),
        Err(errno) => Err(errno.into()),
    };
    match made {
        Ok(()) => {
            events.send(&serde_json::json!({"event": "done"}));
            0
        }
        Err(error) => {
            let code = match error.errno {
                libc::ENOSPC | libc::EFBIG => "no-space",
                libc::EDQUOT => "quota",
                _ => "io",
            };
            events.fail(code, &error.to_string(), None);
            255
        }
    }
}
