//! Tar archives as layers: ustar, GNU (long names, base-256 numbers, sparse files) and PAX (POSIX.1-2001), with the
//! attributes that container tools store in PAX records. Everything is read as it streams past; nothing is seeked.

mod field;
mod pax;
mod sparse;

use std::collections::HashMap;
use std::sync::Arc;

use self::field::{BLOCK, check_sum, number, text, time};
use self::pax::{Records, Said};
use super::shadow::Wanted;
use super::stream::Stream;
use super::{
    Attributes, Content, Entry, Failure, MOST_ENTRIES, MOST_METADATA, Path, Result, Sink, What, XattrFate,
    clean_path, split_path, xattr_fate,
};
use crate::squashfs::format::{encode_device, kind};
use crate::squashfs::inode::Xattrs;

/// Most bytes of extended headers of one entry.
const LONGEST_EXTENSION: u64 = 1 << 20;
/// Longest target of a symbolic link that Linux follows.
const LONGEST_TARGET: usize = 4095;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that AUFS kept for itself and old layers still have.
const OF_AUFS: &[u8] = b".wh..wh.";

/// Reads a layer. Entries come in the order of the archive; the content of files goes to `sink`.
pub fn read(stream: &mut Stream, layer: u32, wanted: &Wanted<'_>, sink: &mut dyn Sink) -> Result<Vec<Entry>> {
    let mut reader =
        Reader { stream, global: Records::default(), xattr_sets: HashMap::new(), left_out: 0, metadata: 0 };
    let mut entries = Vec::new();
    while let Some(header) = reader.next_header()? {
        if entries.len() >= MOST_ENTRIES || reader.metadata > MOST_METADATA {
            return Err(Failure::corrupt("the layer has too many entries"));
        }
        let number = entries.len() as u32;
        let path = header.path.clone();
        let entry = reader.entry(header, layer, number, wanted, sink).map_err(|failure| failure.at(&path))?;
        entries.extend(entry);
    }
    if reader.left_out > 0 && !matches!(wanted, Wanted::Only(_)) {
        sink.warn(format!(
            "{} attributes that images cannot hold (ACLs and the like) were left out",
            reader.left_out
        ));
    }
    Ok(entries)
}

/// A header with everything that extended headers said about it.
struct Header {
    path: Vec<u8>,
    kind: u8,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: u32,
    link: Vec<u8>,
    device: u32,
    /// Bytes stored in the archive.
    stored: u64,
    /// Bytes of the file, and where its stored parts belong, if it is sparse.
    sparse: Option<(u64, sparse::Map)>,
    /// PAX 1.0: the sparse map stands before the content.
    map_in_data: bool,
    xattrs: Xattrs,
}

struct Reader<'a> {
    stream: &'a mut Stream,
    global: Records,
    xattr_sets: HashMap<Xattrs, Arc<Xattrs>>,
    /// Attributes that the format has no place for.
    left_out: usize,
    /// Bytes of names and attributes so far.
    metadata: usize,
}

/// What extended headers announce for the next entry.
#[derive(Default)]
struct Announced {
    size: u64,
    records: Records,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

fn cut_off() -> Failure {
    Failure::corrupt("the archive ends in the middle of an entry")
}

impl Reader<'_> {
    fn read_exact(&mut self, mut target: &mut [u8]) -> Result<()> {
        while !target.is_empty() {
            let available = self.stream.fill()?;
            if available.is_empty() {
                return Err(cut_off());
            }
            let count = available.len().min(target.len());
            let (head, rest) = target.split_at_mut(count);
            head.copy_from_slice(&available[..count]);
            self.stream.consume(count);
            target = rest;
        }
        Ok(())
    }

    fn skip(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let available = self.stream.fill()?.len();
            if available == 0 {
                return Err(cut_off());
            }
            let step = (available as u64).min(count);
            self.stream.consume(step as usize);
            count -= step;
        }
        Ok(())
    }

    /// Some writers end the archive with the last byte of the last file.
    fn skip_padding(&mut self, stored: u64) -> Result<()> {
        let mut left = stored.wrapping_neg() % BLOCK as u64;
        while left > 0 {
            let step = (self.stream.fill()?.len() as u64).min(left);
            if step == 0 {
                break;
            }
            self.stream.consume(step as usize);
            left -= step;
        }
        Ok(())
    }

    /// A block, or `None` where the archive simply ends (some writers leave the end marker out, or cut it short).
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.stream.fill()?;
            let count = available.len().min(BLOCK - filled);
            if count == 0 {
                return if block[..filled].iter().all(|&b| b == 0) { Ok(None) } else { Err(cut_off()) };
            }
            block[filled..filled + count].copy_from_slice(&available[..count]);
            self.stream.consume(count);
            filled += count;
        }
        Ok(Some(block))
    }

    /// The content of an extended header.
    fn extension(&mut self, announced: &mut Announced, size: u64) -> Result<Vec<u8>> {
        announced.size = announced.size.saturating_add(size);
        if announced.size > LONGEST_EXTENSION {
            return Err(Failure::corrupt("an extended header is too large"));
        }
        let mut content = vec![0; size as usize];
        self.read_exact(&mut content)?;
        self.skip_padding(size)?;
        Ok(content)
    }

    fn next_header(&mut self) -> Result<Option<Header>> {
        let mut announced = Announced::default();
        loop {
            let end = self.block()?.filter(|block| block.iter().any(|&b| b != 0));
            let Some(block) = end else {
                return if announced.size > 0 { Err(cut_off()) } else { Ok(None) };
            };
            check_sum(&block)?;
            let size = number(&block[124..136])?;
            match block[156] {
                b'x' => {
                    let content = self.extension(&mut announced, size)?;
                    announced.records.take(&content)?;
                }
                b'g' => {
                    let content = self.extension(&mut Announced::default(), size)?;
                    self.global.take_global(&content)?;
                }
                b'L' => announced.path = Some(text(&self.extension(&mut announced, size)?).to_vec()),
                b'K' => announced.link = Some(text(&self.extension(&mut announced, size)?).to_vec()),
                _ => return self.header(&block, size, announced).map(Some),
            }
        }
    }

    fn header(&mut self, block: &[u8; BLOCK], size: u64, announced: Announced) -> Result<Header> {
        let kind = block[156];
        let gnu_map = if kind == b'S' { Some(self.gnu_sparse_map(block)?) } else { None };
        let said = Said { global: &self.global, own: &announced.records };

        let mut path = text(&block[..100]).to_vec();
        // GNU's own format has other things where ustar has the beginning of a long path.
        if &block[257..263] == b"ustar\0" && block[345] != 0 {
            path = [text(&block[345..500]), b"/", &path].concat();
        }
        let real = said.get("GNU.sparse.name").or(said.get("path")).map(<[u8]>::to_vec);
        let path = real.or(announced.path).unwrap_or(path);
        let link = said.get("linkpath").map(<[u8]>::to_vec).or(announced.link);
        let link = link.unwrap_or_else(|| text(&block[157..257]).to_vec());
        let owner = |key: &str, field: &[u8]| -> Result<u32> {
            let value = said.number(key)?.map_or_else(|| number(field), Ok)?;
            u32::try_from(value)
                .ok()
                // 2^32 - 1 is "no owner" to every system call.
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| Failure::corrupt("an owner's number is too large").at(&path))
        };
        let sparse = match gnu_map {
            Some(map) => Some((number(&block[483..495])?, map)),
            None => match said.number("GNU.sparse.realsize")?.or(said.number("GNU.sparse.size")?) {
                Some(size) => Some((
                    size,
                    match said.get("GNU.sparse.map") {
                        Some(map) => sparse::from_text(map)?,
                        None => announced.records.sparse.clone(),
                    },
                )),
                None => None,
            },
        };
        let device = if matches!(kind, b'3' | b'4') {
            let part = |field: &[u8], limit: u64| {
                number(field)
                    .ok()
                    .filter(|value| *value <= limit)
                    .ok_or_else(|| Failure::corrupt("a device's number is too large").at(&path))
            };
            encode_device(part(&block[329..337], 0xFFF)? as u32, part(&block[337..345], 0xF_FFFF)? as u32)
        } else {
            0
        };
        Ok(Header {
            kind,
            mode: (number(&block[100..108])? & 0o7777) as u16,
            uid: owner("uid", &block[108..116])?,
            gid: owner("gid", &block[116..124])?,
            mtime: said.time("mtime")?.map_or_else(|| time(&block[136..148]), Ok)?,
            link,
            device,
            stored: said.number("size")?.unwrap_or(size),
            map_in_data: kind != b'S' && said.get("GNU.sparse.major") == Some(b"1"),
            sparse,
            xattrs: said.xattrs(),
            path,
        })
    }

    fn gnu_sparse_map(&mut self, block: &[u8; BLOCK]) -> Result<sparse::Map> {
        let mut map = sparse::Map::new();
        sparse::add_gnu_records(&mut map, &block[386..482])?;
        let mut more = block[482] != 0;
        while more {
            let mut next = [0; BLOCK];
            self.read_exact(&mut next)?;
            sparse::add_gnu_records(&mut map, &next[..504])?;
            more = next[504] != 0;
        }
        Ok(map)
    }

    fn entry(
        &mut self,
        header: Header,
        layer: u32,
        number: u32,
        wanted: &Wanted<'_>,
        sink: &mut dyn Sink,
    ) -> Result<Option<Entry>> {
        let path = clean_path(&header.path)?;
        let (parent, name) = split_path(&path);
        let is_file = matches!(header.kind, b'0' | 0 | b'7' | b'S');
        // An old archive marks a directory by its name.
        let is_directory = header.kind == b'5' || (is_file && header.path.ends_with(b"/"));
        // A size of anything else is no content: POSIX lets directories state room, and some writers repeat
        // the size of a file at its further names.
        let content = if matches!(header.kind, b'1'..=b'6') { 0 } else { header.stored };
        self.metadata += path.len() + header.link.len();
        if let Some(mark) = mark(parent, name)? {
            self.skip_content(content)?;
            return Ok(mark.map(|(path, what)| Entry { path, attributes: Attributes::default(), what }));
        }
        let mut attributes = Attributes {
            mode: header.mode,
            uid: header.uid,
            gid: header.gid,
            mtime: header.mtime,
            xattrs: None,
        };
        let what = match header.kind {
            _ if is_directory => {
                self.skip_content(content)?;
                What::Directory
            }
            _ if is_file => {
                let take = wanted.takes(&path, number);
                let (size, written) = self.file(&header, take, sink)?;
                let content = written.map_or(Content::Skipped { layer, entry: number }, Content::Written);
                What::File { size, content }
            }
            b'1' => What::HardLink { target: clean_path(&header.link)? },
            b'2' => {
                attributes.mode = 0o777;
                if header.link.is_empty() || header.link.len() > LONGEST_TARGET || header.link.contains(&0) {
                    return Err(Failure::corrupt(
                        "a symbolic link's target is empty, longer than 4095 bytes or has a NUL",
                    ));
                }
                What::Symlink { target: header.link }
            }
            b'3' => What::Device { kind: kind::CHARACTER, number: header.device },
            b'4' => What::Device { kind: kind::BLOCK, number: header.device },
            b'6' => What::Fifo,
            other => {
                sink.warn(format!(
                    "`{}` has the unknown type `{}` and was left out",
                    String::from_utf8_lossy(&path),
                    char::from(other).escape_default()
                ));
                self.skip_content(content)?;
                return Ok(None);
            }
        };
        if path.is_empty() && what != What::Directory {
            return Err(Failure::corrupt("the root of the layer is not a directory"));
        }
        attributes.xattrs = self.shared_xattrs(header.xattrs);
        Ok(Some(Entry { path, attributes, what }))
    }

    fn skip_content(&mut self, stored: u64) -> Result<()> {
        self.skip(stored)?;
        self.skip_padding(stored)
    }

    /// Passes the content on, or over; the size of the file, and its number if it was taken.
    fn file(&mut self, header: &Header, take: bool, sink: &mut dyn Sink) -> Result<(u64, Option<u32>)> {
        let Some((size, map)) = &header.sparse else {
            if !take {
                self.skip_content(header.stored)?;
                return Ok((header.stored, None));
            }
            sink.begin(header.stored)?;
            self.pass(header.stored, sink)?;
            self.skip_padding(header.stored)?;
            return Ok((header.stored, Some(sink.finish()?)));
        };
        let (size, mut left) = (*size, header.stored);
        let in_data;
        let map = if header.map_in_data {
            in_data = sparse::before_content(|| {
                let mut block = [0; BLOCK];
                left = left
                    .checked_sub(BLOCK as u64)
                    .ok_or_else(|| Failure::corrupt("a sparse file's map is malformed"))?;
                self.read_exact(&mut block)?;
                Ok(block)
            })?;
            &in_data
        } else {
            map
        };
        sparse::check(map, size, left)?;
        if !take {
            self.skip(left)?;
            self.skip_padding(header.stored)?;
            return Ok((size, None));
        }
        sink.begin(size)?;
        let mut at = 0;
        for &(offset, length) in map {
            sink.hole(offset - at)?;
            self.pass(length, sink)?;
            at = offset + length;
        }
        sink.hole(size - at)?;
        self.skip_padding(header.stored)?;
        Ok((size, Some(sink.finish()?)))
    }

    fn pass(&mut self, mut count: u64, sink: &mut dyn Sink) -> Result<()> {
        while count > 0 {
            let available = self.stream.fill()?;
            if available.is_empty() {
                return Err(Failure::corrupt("the archive ends in the middle of a file"));
            }
            let step = (available.len() as u64).min(count) as usize;
            sink.write(&available[..step])?;
            self.stream.consume(step);
            count -= step as u64;
        }
        Ok(())
    }

    fn shared_xattrs(&mut self, mut xattrs: Xattrs) -> Option<Arc<Xattrs>> {
        xattrs.retain(|(name, value)| match xattr_fate(name, value.len()) {
            XattrFate::Kept => true,
            XattrFate::OfTheHost => false,
            XattrFate::LeftOut => {
                self.left_out += 1;
                false
            }
        });
        if xattrs.is_empty() {
            return None;
        }
        if let Some(known) = self.xattr_sets.get(&xattrs) {
            return Some(Arc::clone(known));
        }
        self.metadata += xattrs.iter().map(|(name, value)| 2 * (name.len() + value.len())).sum::<usize>();
        Some(Arc::clone(self.xattr_sets.entry(xattrs.clone()).or_insert_with(|| Arc::new(xattrs))))
    }
}

/// What a name says beyond naming a file: `.wh.NAME` removes the file beside it, `.wh..wh..opq` empties the directory it
/// stands in. `Some(None)`: a remnant of AUFS without meaning.
#[allow(clippy::option_option, reason = "no mark, or a mark that has no effect")]
fn mark(parent: &[u8], name: &[u8]) -> Result<Option<Option<(Path, What)>>> {
    for component in parent.split(|&b| b == b'/') {
        if component.starts_with(OF_AUFS) {
            return Ok(Some(None));
        }
        if component.starts_with(WHITEOUT) {
            return Err(Failure::corrupt("it is inside something that is marked as removed"));
        }
    }
    let Some(removed) = name.strip_prefix(WHITEOUT) else { return Ok(None) };
    if name == OPAQUE {
        return Ok(Some(Some((parent.to_vec(), What::Opaque))));
    }
    if name.starts_with(OF_AUFS) {
        return Ok(Some(None));
    }
    if removed.is_empty() || removed == b"." || removed == b".." {
        return Err(Failure::corrupt("a whiteout names nothing"));
    }
    let path = if parent.is_empty() { removed.to_vec() } else { [parent, b"/", removed].concat() };
    Ok(Some(Some((path, What::Whiteout))))
}
