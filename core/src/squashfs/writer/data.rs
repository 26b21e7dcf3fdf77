//! Contents of files in, blocks and fragments out.

use std::collections::HashMap;
use std::io;

use sha2::{Digest, Sha256};

use super::pipeline::{Pipeline, Written};
use super::{Fragment, Stretch};
use crate::squashfs::format::DATA_RAW;

/// Blocks of one file that the reader takes: 2 TiB at the default block size.
const MOST_BLOCKS: u64 = 1 << 24;
/// Blocks of zeros in all files together: they cost the input nothing and the image four bytes each.
const MOST_HOLE_BLOCKS: usize = 1 << 25;

fn absurd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} of the image would be impossibly large"))
}

/// Cuts files into blocks. A file smaller than a block goes into a fragment block together with others, as
/// squashfs-tools do; equal small files are stored once.
pub struct DataWriter {
    pipeline: Pipeline,
    block_size: usize,
    next: u32,
    size: u64,
    block: Vec<u8>,
    sparse: u64,
    /// Blocks of zeros in all files so far.
    hole_blocks: usize,
    fragment: Vec<u8>,
    fragments: u32,
    /// Where small files are: fragment and offset.
    tails: HashMap<u32, (u32, u32)>,
    /// Small files by their digest, which no two different contents share.
    small: HashMap<[u8; 32], (u32, u32)>,
}

/// Everything about contents that the tables need.
pub struct Contents {
    pub stretches: HashMap<u32, Stretch>,
    pub fragments: Vec<Fragment>,
    pub end: u64,
}

impl DataWriter {
    pub fn new(pipeline: Pipeline, block_size: u32) -> DataWriter {
        DataWriter {
            pipeline,
            block_size: block_size as usize,
            next: 0,
            size: 0,
            block: Vec::with_capacity(block_size as usize),
            sparse: 0,
            hole_blocks: 0,
            fragment: Vec::with_capacity(block_size as usize),
            fragments: 0,
            tails: HashMap::new(),
            small: HashMap::new(),
        }
    }

    fn is_small(&self) -> bool {
        self.size < self.block_size as u64
    }

    pub fn begin(&mut self, size: u64) -> io::Result<()> {
        if size / self.block_size as u64 >= MOST_BLOCKS {
            return Err(absurd("a file"));
        }
        self.size = size;
        self.sparse = 0;
        self.block.clear();
        Ok(())
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = (self.block_size - self.block.len()).min(bytes.len());
            self.block.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.block.len() == self.block_size {
                self.end_block()?;
            }
        }
        Ok(())
    }

    /// Zeros that the source does not store either.
    pub fn hole(&mut self, mut length: u64) -> io::Result<()> {
        let block_size = self.block_size as u64;
        while length > 0 {
            if self.block.is_empty() && length >= block_size {
                let blocks = (length / block_size) as usize;
                self.holes(blocks, block_size)?;
                length %= block_size;
                continue;
            }
            let count = length.min(block_size - self.block.len() as u64) as usize;
            self.block.resize(self.block.len() + count, 0);
            length -= count as u64;
            if self.block.len() == self.block_size {
                self.end_block()?;
            }
        }
        Ok(())
    }

    /// Blocks of zeros, of `length` bytes each.
    fn holes(&mut self, count: usize, length: u64) -> io::Result<()> {
        self.hole_blocks += count;
        if self.hole_blocks > MOST_HOLE_BLOCKS {
            return Err(absurd("the sparse files"));
        }
        self.sparse += count as u64 * length;
        self.pipeline.holes(count)
    }

    fn end_block(&mut self) -> io::Result<()> {
        if is_zero(&self.block) {
            let length = self.block.len() as u64;
            self.block.clear();
            return self.holes(1, length);
        }
        let mut fresh = self.pipeline.buffers.take();
        fresh.reserve(self.block_size);
        self.pipeline.block(std::mem::replace(&mut self.block, fresh))
    }

    /// Ends the file and gives its number.
    pub fn finish(&mut self) -> io::Result<u32> {
        let number = self.next;
        self.next += 1;
        if self.is_small() {
            if !self.block.is_empty() {
                let tail = self.pack_tail()?;
                self.tails.insert(number, tail);
            }
            return Ok(number);
        }
        if !self.block.is_empty() {
            self.end_block()?;
        }
        self.end_large(number)
    }

    fn end_large(&mut self, number: u32) -> io::Result<u32> {
        // A file of nothing but zeros would seem to have no blocks at all.
        let sparse = if self.sparse == self.size { self.size - 1 } else { self.sparse };
        self.pipeline.file_end(number, self.size, sparse)?;
        Ok(number)
    }

    /// A whole file of a block or more as blocks that are packed already, just as this writer packs: a size word each, and `read`, which
    /// fills a buffer with what is stored from some offset on. Gives the file's number. It becomes the bytes that its content would.
    pub fn packed(
        &mut self,
        size: u64,
        words: &[u32],
        read: &mut dyn FnMut(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<u32> {
        self.begin(size)?;
        let block_size = self.block_size as u64;
        let (mut left, mut at) = (size, 0);
        for &word in words {
            let length = (word & !DATA_RAW) as usize;
            if length == 0 {
                self.holes(1, left.min(block_size))?;
            } else {
                let mut bytes = self.pipeline.buffers.take();
                bytes.resize(length, 0);
                read(&mut bytes, at)?;
                self.pipeline.packed(bytes, word)?;
            }
            left = left.saturating_sub(block_size);
            at += length as u64;
        }
        let number = self.next;
        self.next += 1;
        self.end_large(number)
    }

    fn pack_tail(&mut self) -> io::Result<(u32, u32)> {
        let digest: [u8; 32] = Sha256::digest(&self.block).into();
        if let Some(place) = self.small.get(&digest) {
            return Ok(*place);
        }
        if self.fragment.len() + self.block.len() > self.block_size {
            self.end_fragment()?;
        }
        let place = (self.fragments, self.fragment.len() as u32);
        self.fragment.extend_from_slice(&self.block);
        self.small.insert(digest, place);
        Ok(place)
    }

    fn end_fragment(&mut self) -> io::Result<()> {
        if self.fragment.is_empty() {
            return Ok(());
        }
        self.fragments += 1;
        let mut fresh = self.pipeline.buffers.take();
        fresh.reserve(self.block_size);
        self.pipeline.fragment(std::mem::replace(&mut self.fragment, fresh))
    }

    /// Waits until all data is in the file.
    pub fn close(mut self) -> io::Result<Contents> {
        self.end_fragment()?;
        let Written { mut stretches, fragments, end } = self.pipeline.finish()?;
        for (number, tail) in self.tails {
            stretches.insert(number, Stretch { tail: Some(tail), ..Stretch::default() });
        }
        Ok(Contents { stretches, fragments, end })
    }
}

fn is_zero(block: &[u8]) -> bool {
    // Most blocks tell by their first bytes.
    block.iter().take(64).all(|&b| b == 0)
        && block.chunks(4096).all(|part| part.iter().fold(0, |a, b| a | b) == 0)
}
