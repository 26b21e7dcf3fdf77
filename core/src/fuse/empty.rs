//! A file system without any file: with it as the lowest layer of an overlay, the process that serves it lives as long as
//! that overlay, to the last process that sees it, and so does a lock which it holds.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::protocol::{FOREVER, REQUEST_SIZE, ROOT, Request, opcode};
use super::reply::Reply;

const DIRECTORY: u32 = libc::S_IFDIR | 0o755;

/// Serves until the kernel has let go of the mount. uid, gid: the owner of its root.
pub fn serve(device: OwnedFd, uid: u32, gid: u32) {
    let mut reply = Reply::new();
    let mut buffer = vec![0; REQUEST_SIZE];
    loop {
        let length = match rustix::io::read(&device, &mut buffer) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            Err(_) => return,
        };
        let Some(request) = Request::parse(&buffer[..length]) else { return };
        if matches!(request.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT) {
            continue;
        }
        reply.clear();
        let error = answer(&request, &mut reply, uid, gid);
        let sent = reply.send(device.as_fd(), request.unique, error);
        if sent.is_err() || request.opcode == opcode::DESTROY {
            return;
        }
    }
}

/// Puts the answer into `reply`; an error number, or 0.
fn answer(request: &Request<'_>, reply: &mut Reply, uid: u32, gid: u32) -> i32 {
    match request.opcode {
        opcode::INIT => match (request.u32(8), request.u32(12)) {
            (Some(readahead), Some(offered)) => reply.init(offered, readahead),
            _ => return libc::EIO,
        },
        opcode::LOOKUP => reply.no_entry(),
        opcode::GETATTR if request.node == ROOT => {
            reply.u64(FOREVER);
            reply.u64(0);
            reply.u64(ROOT);
            reply.zeros(5 * 8 + 3 * 4); // no size, no blocks, the beginning of time
            for number in [DIRECTORY, 2, uid, gid, 0, 4096, 0] {
                reply.u32(number);
            }
        }
        opcode::READDIR | opcode::READDIRPLUS | opcode::RELEASEDIR | opcode::DESTROY => {}
        opcode::STATFS => reply.zeros(80),
        _ => return libc::ENOSYS,
    }
    0
}
