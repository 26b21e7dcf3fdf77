//! The lazy reader: opening an image reads its superblock and ids, whatever its size; the rest comes as it is
//! asked for. The image is hostile until proven: every length is bounded before anything is allocated for it.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::cache::Cache;
use super::codec::{Compressor, Decoder};
use super::format::{
    ABSENT, DATA_RAW, Error, Fields, METADATA_SIZE, NO_FRAGMENT, Result, SUPERBLOCK_SIZE, Superblock,
};
use super::inode::{Data, Inode};
use super::metadata::{Block, Place, Stream};

/// Blocks of one file beyond this are refused: 2 TiB at the default block size.
const MOST_BLOCKS: u64 = 1 << 24;
/// Entries of the fragment table in one metadata block.
const FRAGMENTS_PER_BLOCK: u32 = (METADATA_SIZE / 16) as u32;

/// A data or fragment block as stored: position in the image, size word (length and the "raw" bit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub position: u64,
    pub word: u32,
}

impl Stored {
    /// Bytes it takes in the image; 0 for a block of zeros that is not stored at all.
    pub fn length(self) -> u32 {
        self.word & !DATA_RAW
    }
}

/// The blocks of one file, with the position of every 64th so that any is found quickly.
pub struct BlockList {
    words: Vec<u32>,
    positions: Vec<u64>,
}

const POSITION_STEP: usize = 64;

impl BlockList {
    fn new(words: Vec<u32>, start: u64) -> Result<BlockList> {
        let mut positions = Vec::with_capacity(words.len() / POSITION_STEP + 1);
        let mut position = start;
        for (i, word) in words.iter().enumerate() {
            if i % POSITION_STEP == 0 {
                positions.push(position);
            }
            position = position
                .checked_add(u64::from(word & !DATA_RAW))
                .ok_or(Error::Corrupt("a file's blocks lie outside the image"))?;
        }
        Ok(BlockList { words, positions })
    }

    pub fn len(&self) -> usize {
        self.words.len()
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<Stored> {
        let word = *self.words.get(index)?;
        let first = index - index % POSITION_STEP;
        let before: u64 = self.words[first..index].iter().map(|w| u64::from(w & !DATA_RAW)).sum();
        Some(Stored { position: self.positions[index / POSITION_STEP] + before, word })
    }

    pub fn words(&self) -> &[u32] {
        &self.words
    }
}

/// A block's content. What a reader makes of the rest of it is done once.
pub struct Unpacked {
    pub content: Vec<u8>,
    used: AtomicBool,
}

impl Unpacked {
    /// Whether this has been asked before.
    pub fn used(&self) -> bool {
        self.used.swap(true, Ordering::Relaxed)
    }
}

/// The end of a file that shares a block: where it begins in the file, where in the block, and its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    pub start: u64,
    pub from: u32,
    pub length: u32,
}

/// What a read has unpacked and did not want.
pub enum Rest {
    /// A block of the same file: where it begins there, and how many of the file's bytes it stands for.
    Block { start: u64, length: usize, unpacked: Arc<Unpacked> },
    /// Tails of other files.
    Tails { fragment: u32, unpacked: Arc<Unpacked> },
}

/// An open image. Any number of threads may read it at the same time.
pub struct Image {
    file: Arc<File>,
    /// Where the image begins in the file.
    base: u64,
    pub superblock: Superblock,
    pub compressor: Compressor,
    ids: Vec<u32>,
    pub(super) metadata: Cache<Block>,
    fragments: Cache<Unpacked>,
    blocks: Cache<Unpacked>,
    lists: Cache<BlockList>,
    pub(super) cursors: Cache<super::directory::Resume>,
    decoders: Mutex<Vec<Decoder>>,
}

thread_local! {
    /// Compressed bytes on their way to the decoder; as large as the largest block read so far.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Image {
    /// Opens the image of `size` bytes that begins at `base` of the file.
    pub fn open(file: Arc<File>, base: u64, size: u64) -> Result<Image> {
        let length = file.metadata()?.len();
        // A device or a growing file has no length to trust; what is missing shows at the first read.
        let available = if length == 0 { size } else { size.min(length.saturating_sub(base)) };
        let mut head = [0; SUPERBLOCK_SIZE];
        let count = available.min(SUPERBLOCK_SIZE as u64) as usize;
        file.read_exact_at(&mut head[..count], base)?;
        let superblock = Superblock::parse(&head[..count], available)?;
        let compressor = Compressor::from_number(superblock.compressor)?;
        let mut image = Image {
            file,
            base,
            compressor,
            ids: Vec::new(),
            metadata: Cache::new(32, 8),
            fragments: Cache::new(8, 2),
            blocks: Cache::new(4, 2),
            lists: Cache::new(16, 4),
            cursors: Cache::new(8, 4),
            decoders: Mutex::new(Vec::new()),
            superblock,
        };
        image.ids = image.read_ids()?;
        Ok(image)
    }

    fn read_ids(&self) -> Result<Vec<u32>> {
        let count = usize::from(self.superblock.ids);
        let mut ids = Vec::with_capacity(count);
        let per_block = METADATA_SIZE / 4;
        for index in 0..count.div_ceil(per_block) {
            let mut stream = self.table_block(self.superblock.id_table, index as u64)?;
            for _ in 0..per_block.min(count - ids.len()) {
                ids.push(stream.u32()?);
            }
        }
        Ok(ids)
    }

    /// The `index`-th metadata block of a lookup table whose list of positions begins at `list`.
    pub(super) fn table_block(&self, list: u64, index: u64) -> Result<Stream<'_>> {
        let mut position = [0; 8];
        let at = index.checked_mul(8).and_then(|o| list.checked_add(o));
        self.read_stored(at.ok_or(Error::Corrupt("a table lies outside the image"))?, &mut position)?;
        let block = u64::from_le_bytes(position);
        if block < SUPERBLOCK_SIZE as u64 || block >= list {
            return Err(Error::Corrupt("a table lies outside the image"));
        }
        Ok(Stream::new(self, Place { block, offset: 0 }, list))
    }

    /// Reads bytes as they are stored; `position` is relative to the image.
    pub(super) fn read_stored(&self, position: u64, target: &mut [u8]) -> Result<()> {
        match position.checked_add(target.len() as u64) {
            Some(end) if end <= self.superblock.bytes_used => {}
            _ => return Err(Error::Corrupt("a block lies outside the image")),
        }
        Ok(self.file.read_exact_at(target, self.base + position)?)
    }

    pub(super) fn decompress(&self, stored: &[u8], target: &mut [u8]) -> Result<usize> {
        let pool = || self.decoders.lock().unwrap_or_else(PoisonError::into_inner);
        let decoder = pool().pop();
        let mut decoder = decoder.unwrap_or_else(|| Decoder::new(self.compressor));
        let count = decoder.decompress(stored, target);
        pool().push(decoder);
        count
    }

    pub fn block_size(&self) -> usize {
        self.superblock.block_size as usize
    }

    /// The file that holds the image, and where it begins: for copying stored blocks as they are.
    pub fn source(&self) -> (&Arc<File>, u64) {
        (&self.file, self.base)
    }

    pub(super) fn id(&self, index: u16) -> Result<u32> {
        self.ids.get(usize::from(index)).copied().ok_or(Error::Corrupt("an owner is not in the table of ids"))
    }

    /// Where the inodes and the directories end: the next table that exists.
    pub(super) fn directory_end(&self) -> u64 {
        let superblock = &self.superblock;
        let fragments = if superblock.fragments == 0 { ABSENT } else { superblock.fragment_table };
        [fragments, superblock.export_table, superblock.id_table].into_iter().min().unwrap_or(ABSENT)
    }

    /// Where the `index`-th fragment block is stored.
    pub fn fragment(&self, index: u32) -> Result<Stored> {
        if index >= self.superblock.fragments {
            return Err(Error::Corrupt("a file's tail is not in the fragment table"));
        }
        let mut stream =
            self.table_block(self.superblock.fragment_table, u64::from(index / FRAGMENTS_PER_BLOCK))?;
        stream.skip(u64::from(index % FRAGMENTS_PER_BLOCK) * 16)?;
        let record: [u8; 16] = stream.array()?;
        let mut fields = Fields(&record);
        Ok(Stored { position: fields.u64()?, word: fields.u32()? })
    }

    /// Decompresses a stored block into `target`, and says how many bytes it holds.
    pub fn read_block(&self, block: Stored, target: &mut [u8]) -> Result<usize> {
        let length = block.length() as usize;
        if length > self.block_size() {
            return Err(Error::Corrupt("a data block is larger than the block size"));
        }
        if block.word & DATA_RAW != 0 {
            let place = target
                .get_mut(..length)
                .ok_or(Error::Corrupt("a data block is larger than the block size"))?;
            self.read_stored(block.position, place)?;
            return Ok(length);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < length {
                scratch.resize(length, 0);
            }
            self.read_stored(block.position, &mut scratch[..length])?;
            self.decompress(&scratch[..length], target)
        })
    }

    fn whole_block(&self, block: Stored) -> Result<Unpacked> {
        let mut content = vec![0; self.block_size()];
        let count = self.read_block(block, &mut content)?;
        content.truncate(count);
        Ok(Unpacked { content, used: AtomicBool::new(false) })
    }

    /// The block that holds the tails of many files, unpacked and kept for a while.
    pub fn tails(&self, fragment: u32) -> Result<Arc<Unpacked>> {
        self.fragments.get_or_load(u64::from(fragment), || self.whole_block(self.fragment(fragment)?))
    }

    /// The part of a file that is in a block together with the tails of others, and that block.
    pub fn tail(&self, inode: &Inode) -> Option<(u32, Tail)> {
        let Data::File { fragment, fragment_offset, .. } = inode.data else { return None };
        let length = (inode.size % self.block_size() as u64) as u32;
        let tail = Tail { start: inode.size - u64::from(length), from: fragment_offset, length };
        (fragment != NO_FRAGMENT && length > 0).then_some((fragment, tail))
    }

    /// How many blocks a file has of its own: those of its list.
    pub(super) fn block_count(&self, inode: &Inode) -> Result<u64> {
        let Data::File { fragment, .. } = &inode.data else {
            return Err(Error::Corrupt("it is not a file"));
        };
        let size = self.block_size() as u64;
        let count = if *fragment == NO_FRAGMENT { inode.size.div_ceil(size) } else { inode.size / size };
        if count > MOST_BLOCKS {
            return Err(Error::Corrupt("a file is impossibly large"));
        }
        Ok(count)
    }

    /// The block list of a file, read from the inode table.
    pub fn block_list(&self, inode: &Inode) -> Result<Arc<BlockList>> {
        let Data::File { start, sizes, .. } = &inode.data else {
            return Err(Error::Corrupt("it is not a file"));
        };
        let count = self.block_count(inode)?;
        self.lists.get_or_load(inode.reference, || {
            let mut stream = Stream::new(self, *sizes, self.superblock.directory_table);
            let mut words = Vec::new();
            for _ in 0..count {
                let word = stream.u32()?;
                if word & !DATA_RAW > self.superblock.block_size {
                    return Err(Error::Corrupt("a data block is larger than the block size"));
                }
                words.push(word);
            }
            BlockList::new(words, *start)
        })
    }

    /// Reads a file from `offset` on; returns how many bytes, fewer than asked for only at its end.
    pub fn read_file(&self, inode: &Inode, offset: u64, target: &mut [u8]) -> Result<usize> {
        self.read_noting(inode, offset, target, &mut |_| ())
    }

    /// The same, telling of every block of which only a part was wanted.
    pub fn read_noting(
        &self,
        inode: &Inode,
        offset: u64,
        target: &mut [u8],
        note: &mut dyn FnMut(Rest),
    ) -> Result<usize> {
        let Data::File { fragment, fragment_offset, .. } = &inode.data else {
            return Err(Error::Corrupt("it is not a file"));
        };
        let wanted = inode.size.saturating_sub(offset).min(target.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let list = self.block_list(inode)?;
        let size = self.block_size();
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let (index, within) = ((at / size as u64) as usize, (at % size as u64) as usize);
            // The last block of a file may be short.
            let block_length = (inode.size - index as u64 * size as u64).min(size as u64) as usize;
            let count = (block_length - within).min(wanted - done);
            let part = &mut target[done..done + count];
            match list.get(index) {
                Some(block) if block.length() == 0 => part.fill(0),
                Some(block) if within == 0 && count == block_length => {
                    let read = self.read_block(block, part)?;
                    part[read..].fill(0);
                }
                Some(block) => {
                    let unpacked = self.blocks.get_or_load(block.position, || self.whole_block(block))?;
                    copy_padded(&unpacked.content, within, part);
                    let start = index as u64 * size as u64;
                    note(Rest::Block { start, length: block_length, unpacked });
                }
                None if *fragment != NO_FRAGMENT => {
                    let unpacked = self.tails(*fragment)?;
                    let from = *fragment_offset as usize + within;
                    let tail = unpacked
                        .content
                        .get(from..from.saturating_add(count))
                        .ok_or(Error::Corrupt("a file's tail is outside its fragment"))?;
                    part.copy_from_slice(tail);
                    note(Rest::Tails { fragment: *fragment, unpacked });
                }
                None => return Err(Error::Corrupt("a file has too few blocks")),
            }
            done += count;
        }
        Ok(done)
    }
}

/// Copies from a block that may be shorter than what the file's size promises: the rest reads as zeros.
fn copy_padded(content: &[u8], from: usize, part: &mut [u8]) {
    let available = content.get(from..).unwrap_or_default();
    let count = available.len().min(part.len());
    part[..count].copy_from_slice(&available[..count]);
    part[count..].fill(0);
}
