//! Metadata: tables cut into compressed blocks of 8 KiB, read as one stream.

use std::sync::Arc;

use super::format::{Error, Fields, METADATA_RAW, METADATA_SIZE, Result};
use super::reader::Image;

/// A decompressed metadata block and the position of the one behind it.
pub struct Block {
    pub data: Box<[u8]>,
    pub next: u64,
}

/// A place in a table: position of a metadata block within the image, offset in its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub block: u64,
    pub offset: usize,
}

/// Reads on from a place. It cannot leave the table, which ends at `end`.
pub struct Stream<'a> {
    image: &'a Image,
    place: Place,
    end: u64,
    current: Option<Arc<Block>>,
}

impl<'a> Stream<'a> {
    pub fn new(image: &'a Image, place: Place, end: u64) -> Stream<'a> {
        Stream { image, place, end, current: None }
    }

    /// Where the next byte is read from.
    pub fn place(&self) -> Place {
        self.place
    }

    fn block(&mut self) -> Result<&Arc<Block>> {
        loop {
            if self.current.is_none() {
                if self.place.block >= self.end {
                    return Err(Error::Corrupt("a record reaches beyond its table"));
                }
                self.current = Some(self.image.metadata_block(self.place.block)?);
            }
            let (length, next) = match &self.current {
                Some(block) => (block.data.len(), block.next),
                None => (0, 0),
            };
            if self.place.offset < length {
                break;
            }
            // Only a full block is followed by another.
            if length != METADATA_SIZE || self.place.offset > length {
                return Err(Error::Corrupt("a record reaches beyond its table"));
            }
            self.place = Place { block: next, offset: 0 };
            self.current = None;
        }
        self.current.as_ref().ok_or(Error::Corrupt("a record reaches beyond its table"))
    }

    pub fn read(&mut self, mut target: &mut [u8]) -> Result<()> {
        while !target.is_empty() {
            let offset = self.place.offset;
            let block = self.block()?;
            let start = if block.data.len() > offset { offset } else { 0 };
            let available = &block.data[start..];
            let count = available.len().min(target.len());
            let (head, rest) = target.split_at_mut(count);
            head.copy_from_slice(&available[..count]);
            target = rest;
            self.place.offset = start + count;
        }
        Ok(())
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// `length` bytes; the caller has bounded it.
    pub fn vec(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    pub fn skip(&mut self, mut count: u64) -> Result<()> {
        let mut waste = [0; 512];
        while count > 0 {
            let step = count.min(waste.len() as u64) as usize;
            self.read(&mut waste[..step])?;
            count -= step as u64;
        }
        Ok(())
    }
}

impl Image {
    /// The metadata block at `position` of the image, decompressed and kept for a while.
    pub(super) fn metadata_block(&self, position: u64) -> Result<Arc<Block>> {
        self.metadata.get_or_load(position, || self.load_metadata(position))
    }

    fn load_metadata(&self, position: u64) -> Result<Block> {
        // Header and block in one read; a block is 8 KiB at most, stored or compressed.
        let mut raw = [0; 2 + METADATA_SIZE];
        let available = self.superblock.bytes_used.saturating_sub(position).min(raw.len() as u64) as usize;
        let raw = &mut raw[..available];
        self.read_stored(position, raw)?;
        let mut fields = Fields(raw);
        let header = fields.u16()?;
        let length = usize::from(header & !METADATA_RAW);
        if length == 0 || length > METADATA_SIZE {
            return Err(Error::Corrupt("a metadata block has an impossible size"));
        }
        let stored = fields.bytes(length)?;
        let next = position + 2 + length as u64;
        let data = if header & METADATA_RAW != 0 {
            stored.into()
        } else {
            let mut out = [0; METADATA_SIZE];
            let count = self.decompress(stored, &mut out)?;
            out[..count].into()
        };
        Ok(Block { data, next })
    }
}
