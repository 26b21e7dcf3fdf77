//! The verb `ext-make`: an empty ext3 file system in a range of an open file.

use std::os::fd::{AsFd, RawFd};

use serde::Deserialize;
use serde_json::Map;

use super::make::{self, Wish};
use crate::request::{self, Asking, Refusal};
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

impl Asking for Request {
    fn events(&self) -> RawFd {
        self.events
    }
}

/// The verb; returns the exit status.
pub fn run(fd: RawFd) -> i32 {
    request::answer(fd, |request: Request, _| make(&request).map(|()| Map::new()))
}

fn make(request: &Request) -> super::Result<()> {
    let file = request::take_descriptor(request.fd);
    let number = u128::from_str_radix(&request.id, 16).unwrap_or_default();
    let wish = Wish {
        uid: request.uid,
        gid: request.gid,
        mode: request.mode,
        directories: request.directories.iter().map(Text::as_bytes).collect(),
        id: number.to_be_bytes(),
    };
    let own = rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 3)?;
    make::make(own.into(), request.offset, request.size, &wish)
}

impl From<super::Error> for Refusal {
    fn from(error: super::Error) -> Refusal {
        let code = match error.errno {
            libc::ENOSPC | libc::EFBIG => "no-space",
            libc::EDQUOT => "quota",
            _ => "io",
        };
        Refusal { code, message: error.to_string(), path: None }
    }
}
