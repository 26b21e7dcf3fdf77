//! Directories: listings, lookup by name, and paths resolved inside the image.

use super::format::{Error, Fields, LISTING_EXTRA, METADATA_SIZE, Result, kind};
use super::inode::{Data, Inode};
use super::metadata::{Place, Stream};
use super::reader::Image;

/// Entries under one header, at most.
const ENTRIES_PER_HEADER: u32 = 256;
/// Longest name of an entry (NAME_MAX).
const LONGEST_NAME: usize = 255;
/// Links followed while resolving one path, as the kernel's limit.
const MOST_LINKS: u32 = 40;

/// An entry of a listing. `kind` is the basic type; `reference` names the inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: u16,
    pub reference: u64,
    pub number: u32,
    /// Where the listing goes on behind this entry.
    pub cookie: u64,
}

/// A place in a listing to go on from: of the header, and how many of its entries are done.
pub struct Resume {
    place: Place,
    consumed: u64,
}

/// Walks through a listing in stored order.
pub struct Listing<'a> {
    stream: Stream<'a>,
    size: u64,
    consumed: u64,
    /// Offset of the present header in the listing, its place, and how far its entries are read.
    header_at: u64,
    header_place: Place,
    entries: u32,
    done: u32,
    inode_block: u32,
    base_number: u32,
}

impl<'a> Listing<'a> {
    fn from(image: &'a Image, place: Place, consumed: u64, size: u64) -> Listing<'a> {
        Listing {
            stream: Stream::new(image, place, image.directory_end()),
            size,
            consumed,
            header_at: consumed,
            header_place: place,
            entries: 0,
            done: 0,
            inode_block: 0,
            base_number: 0,
        }
    }

    /// The next entry; `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.done == self.entries {
            if self.consumed >= self.size {
                return Ok(None);
            }
            self.header_at = self.consumed;
            self.header_place = self.stream.place();
            let header: [u8; 12] = self.stream.array()?;
            let mut fields = Fields(&header);
            let count = fields.u32()?;
            if count >= ENTRIES_PER_HEADER {
                return Err(Error::Corrupt("a directory's header has too many entries"));
            }
            (self.entries, self.done) = (count + 1, 0);
            self.inode_block = fields.u32()?;
            self.base_number = fields.u32()?;
            self.consumed += 12;
        }
        let record: [u8; 8] = self.stream.array()?;
        let mut fields = Fields(&record);
        let offset = fields.u16()?;
        let delta = fields.i16()?;
        let kind = fields.u16()?;
        let length = usize::from(fields.u16()?) + 1;
        if length > LONGEST_NAME {
            return Err(Error::Corrupt("a name in a directory is too long"));
        }
        let name = self.stream.vec(length)?;
        if name.contains(&0) || name.contains(&b'/') || name == b"." || name == b".." {
            return Err(Error::Corrupt("a directory has an impossible name"));
        }
        if !(kind::DIRECTORY..=kind::SOCKET).contains(&kind) || usize::from(offset) >= METADATA_SIZE {
            return Err(Error::Corrupt("a directory's entry is malformed"));
        }
        self.consumed += 8 + length as u64;
        if self.consumed > self.size {
            return Err(Error::Corrupt("a directory's listing is longer than its size"));
        }
        self.done += 1;
        Ok(Some(Entry {
            name,
            kind,
            reference: u64::from(self.inode_block) << 16 | u64::from(offset),
            number: self.base_number.wrapping_add_signed(i32::from(delta)),
            cookie: self.header_at << 9 | u64::from(self.done),
        }))
    }

    /// Remembers where the present header stands, so that the next reading of this listing begins there.
    pub fn remember(&self, image: &Image, directory: &Inode) {
        let key = directory.reference << 24 ^ self.header_at;
        image.cursors.put(key, Resume { place: self.header_place, consumed: self.header_at });
    }
}

impl Image {
    /// The listing of a directory, from behind the entry with this cookie (0: from the beginning).
    pub fn list(&self, directory: &Inode, cookie: u64) -> Result<Listing<'_>> {
        let Data::Directory { start, .. } = &directory.data else {
            return Err(Error::Io(std::io::Error::from_raw_os_error(libc::ENOTDIR)));
        };
        let size = directory.size.saturating_sub(u64::from(LISTING_EXTRA));
        if cookie == 0 {
            return Ok(Listing::from(self, *start, 0, size));
        }
        let (header_at, done) = (cookie >> 9, cookie & 0x1FF);
        let known =
            self.cursors.get(directory.reference << 24 ^ header_at).filter(|r| r.consumed == header_at);
        let mut listing = match known {
            Some(resume) => Listing::from(self, resume.place, header_at, size),
            None => {
                let mut listing = Listing::from(self, *start, 0, size);
                listing.stream.skip(header_at.min(size))?;
                listing.consumed = header_at.min(size);
                listing
            }
        };
        for _ in 0..done {
            listing.next_entry()?;
        }
        Ok(listing)
    }

    /// Finds a name in a directory.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Inode> {
        let Data::Directory { start, indexes, index, .. } = &directory.data else {
            return Err(Error::Io(std::io::Error::from_raw_os_error(libc::ENOTDIR)));
        };
        let size = directory.size.saturating_sub(u64::from(LISTING_EXTRA));
        let mut listing = Listing::from(self, *start, 0, size);
        if *indexes > 0 {
            let mut stream = Stream::new(self, *index, self.superblock.directory_table);
            for _ in 0..*indexes {
                let record: [u8; 12] = stream.array()?;
                let mut fields = Fields(&record);
                let (offset, block, length) = (fields.u32()?, fields.u32()?, fields.u32()? as usize + 1);
                if length > LONGEST_NAME + 1 {
                    return Err(Error::Corrupt("a directory's index is malformed"));
                }
                if stream.vec(length)?.as_slice() > name {
                    break;
                }
                let place = Place {
                    block: self.superblock.directory_table + u64::from(block),
                    offset: (start.offset + offset as usize) % METADATA_SIZE,
                };
                listing = Listing::from(self, place, u64::from(offset), size);
            }
        }
        while let Some(entry) = listing.next_entry()? {
            match entry.name.as_slice().cmp(name) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return self.inode_of(&entry),
                std::cmp::Ordering::Greater => break,
            }
        }
        Err(Error::NotFound)
    }

    /// The inode of an entry; what the two say of each other must agree.
    pub fn inode_of(&self, entry: &Entry) -> Result<Inode> {
        let inode = self.inode(entry.reference)?;
        if inode.kind != entry.kind || inode.number != entry.number {
            return Err(Error::Corrupt("a directory's entry and its inode disagree"));
        }
        Ok(inode)
    }

    /// Resolves a path from the root. Links are followed inside the image, the last one only with `follow`.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Inode> {
        let mut stack = vec![self.root()?];
        let mut left: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let Some(directory) = stack.last() else { break };
            let inode = self.lookup(directory, &name)?;
            match &inode.data {
                Data::Symlink { target } if follow || !left.is_empty() => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Error::Io(std::io::Error::from_raw_os_error(libc::ELOOP)));
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    left.extend(components(target));
                }
                _ => stack.push(inode),
            }
        }
        stack.pop().ok_or(Error::NotFound)
    }
}

/// The components of a path, last first; empty ones and `.` left out.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec).rev().collect()
}
