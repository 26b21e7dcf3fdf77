//! Replies: one buffer per thread, header first, written to the device in one call.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::protocol::{FOREVER, MAX_PAGES, OUT_HEADER, VERSION, init};

pub struct Reply {
    buffer: Vec<u8>,
}

impl Reply {
    pub fn new() -> Reply {
        Reply { buffer: Vec::with_capacity(OUT_HEADER + 4096) }
    }

    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.resize(OUT_HEADER, 0);
    }

    /// Bytes behind the header.
    pub fn len(&self) -> usize {
        self.buffer.len() - OUT_HEADER
    }

    pub fn truncate(&mut self, length: usize) {
        self.buffer.truncate(OUT_HEADER + length);
    }

    pub fn u16(&mut self, value: u16) {
        self.buffer.extend_from_slice(&value.to_ne_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_ne_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_ne_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub fn zeros(&mut self, count: usize) {
        self.buffer.resize(self.buffer.len() + count, 0);
    }

    /// The answer to INIT. readahead, offered: what the kernel would do, and knows.
    pub fn init(&mut self, offered: u32, readahead: u32) {
        self.u32(VERSION.0);
        self.u32(VERSION.1);
        self.u32(readahead.max(1 << 20));
        self.u32(offered & init::WANTED);
        self.u16(64); // requests in the background: read-ahead
        self.u16(48); // congestion threshold
        self.u32(4096); // largest write: none ever comes
        self.u32(1); // time granularity, ns
        self.u16(MAX_PAGES);
        self.zeros(64 - 30);
    }

    /// Node 0 with a validity: the kernel remembers that there is no such name.
    pub fn no_entry(&mut self) {
        self.u64(0);
        self.u64(0);
        self.u64(FOREVER);
        self.zeros(128 - 24);
    }

    /// Room of `count` bytes to be filled in place.
    pub fn room(&mut self, count: usize) -> &mut [u8] {
        let start = self.buffer.len();
        self.zeros(count);
        &mut self.buffer[start..]
    }

    /// Sends what was put in, or the error alone.
    pub fn send(&mut self, device: BorrowedFd<'_>, unique: u64, error: i32) -> Result<(), Errno> {
        if error != 0 {
            self.truncate(0);
        }
        let length = self.buffer.len() as u32;
        self.buffer[0..4].copy_from_slice(&length.to_ne_bytes());
        self.buffer[4..8].copy_from_slice(&(-error).to_ne_bytes());
        self.buffer[8..16].copy_from_slice(&unique.to_ne_bytes());
        loop {
            match rustix::io::write(device, &self.buffer) {
                Err(Errno::INTR) => {}
                // The one who asked has gone away.
                Ok(_) | Err(Errno::NOENT) => break Ok(()),
                Err(errno) => break Err(errno),
            }
        }
    }

    /// A large reply's memory is not kept: an idle server stays small.
    pub fn shrink(&mut self) {
        if self.buffer.capacity() > 256 * 1024 {
            self.buffer = Vec::with_capacity(OUT_HEADER + 4096);
        }
    }
}
