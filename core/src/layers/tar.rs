//! Tar archives as layers: ustar, GNU (long names, base-256 numbers, sparse files) and PAX (POSIX.1-2001), with the
//! attributes that container tools store in PAX records. Everything is read as it streams past; nothing is seeked.

use std::collections::HashMap;
use std::sync::Arc;

use super::shadow::Shadow;
use super::stream::Stream;
use super::{Attributes, Content, Entry, Failure, Path, Result, Sink, What, clean_path, split_path};
use crate::squashfs::format::{encode_device, kind};
use crate::squashfs::inode::Xattrs;

const BLOCK: usize = 512;
/// Longest PAX header or GNU long name taken in.
const LONGEST_EXTENSION: u64 = 1 << 20;
/// Most records in one sparse map.
const MOST_HOLES: usize = 1 << 20;
/// Most entries of one layer.
const MOST_ENTRIES: usize = 20_000_000;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Which entries' content is wanted.
pub enum Wanted<'a> {
    /// Everything that upper layers do not seem to hide.
    Visible(&'a Shadow),
    /// These entries, and nothing else: the second look.
    Only(&'a HashMap<u32, ()>),
}

/// Reads a layer. Entries come in the order of the archive; the content of files goes to `sink`.
pub fn read(stream: &mut Stream, layer: u32, wanted: &Wanted<'_>, sink: &mut dyn Sink) -> Result<Vec<Entry>> {
    let mut reader = Reader { stream, global: HashMap::new(), xattr_sets: HashMap::new() };
    let mut entries = Vec::new();
    while let Some(header) = reader.next_header()? {
        if entries.len() >= MOST_ENTRIES {
            return Err(Failure::corrupt("the layer has too many entries"));
        }
        let number = entries.len() as u32;
        let path = header.path.clone();
        let entry = reader.entry(header, layer, number, wanted, sink).map_err(|failure| failure.at(&path))?;
        entries.extend(entry);
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
    device: (u32, u32),
    /// Bytes stored in the archive.
    stored: u64,
    /// Bytes of the file, and where its stored parts belong, if it is sparse.
    sparse: Option<(u64, Vec<(u64, u64)>)>,
    /// PAX 1.0: the sparse map stands before the content.
    map_in_data: bool,
    xattrs: Xattrs,
}

struct Reader<'a> {
    stream: &'a mut Stream,
    global: HashMap<Vec<u8>, Vec<u8>>,
    xattr_sets: HashMap<Xattrs, Arc<Xattrs>>,
}

/// What extended headers announce for the next entry.
#[derive(Default)]
struct Announced {
    records: HashMap<Vec<u8>, Vec<u8>>,
    /// In order: a sparse map of PAX 0.0 repeats its keys.
    sparse: Vec<(u64, u64)>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Reader<'_> {
    fn read_exact(&mut self, mut target: &mut [u8]) -> Result<()> {
        while !target.is_empty() {
            let available = self.stream.fill()?;
            if available.is_empty() {
                return Err(Failure::corrupt("the archive ends in the middle of an entry"));
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
                return Err(Failure::corrupt("the archive ends in the middle of an entry"));
            }
            let step = (available as u64).min(count);
            self.stream.consume(step as usize);
            count -= step;
        }
        Ok(())
    }

    fn skip_padding(&mut self, stored: u64) -> Result<()> {
        self.skip(stored.next_multiple_of(BLOCK as u64) - stored)
    }

    /// A block, or `None` where the archive simply ends (many writers leave the end marker out).
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.stream.fill()?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.read_exact(&mut block)?;
        Ok(Some(block))
    }

    /// The content of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > LONGEST_EXTENSION {
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
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|&b| b == 0) {
                return Ok(None);
            }
            check_sum(&block)?;
            let size = number(&block[124..136])?;
            match block[156] {
                b'x' => {
                    let content = self.extension(size)?;
                    announced.take(&content)?;
                }
                b'g' => {
                    let content = self.extension(size)?;
                    let mut records = Announced::default();
                    records.take(&content)?;
                    self.global.extend(records.records);
                }
                b'L' => announced.path = Some(text(&self.extension(size)?).to_vec()),
                b'K' => announced.link = Some(text(&self.extension(size)?).to_vec()),
                _ => return self.header(&block, size, announced).map(Some),
            }
        }
    }

    fn header(&mut self, block: &[u8; BLOCK], size: u64, mut announced: Announced) -> Result<Header> {
        for (key, value) in &self.global {
            announced.records.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let records = &announced.records;
        let pax = |key: &str| records.get(key.as_bytes());
        let pax_number = |key: &str| pax(key).map(|v| decimal(v)).transpose();

        let gnu = &block[257..265] == b"ustar  \0";
        let mut path = text(&block[..100]).to_vec();
        if !gnu && &block[257..262] == b"ustar" && block[345] != 0 {
            path = [text(&block[345..500]), b"/", &path].concat();
        }
        let real_path = pax("GNU.sparse.name").or(pax("path")).cloned();
        let path = real_path.or(announced.path).unwrap_or(path);
        let link =
            pax("linkpath").cloned().or(announced.link).unwrap_or_else(|| text(&block[157..257]).to_vec());
        let id = |key: &str, field: &[u8]| -> Result<u32> {
            let value = pax_number(key)?.map_or_else(|| number(field), Ok)?;
            u32::try_from(value).map_err(|_| Failure::corrupt("an owner's number is too large").at(&path))
        };
        let stored = pax_number("size")?.unwrap_or(size);
        let mtime = match pax("mtime") {
            Some(value) => seconds(value),
            None => u32::try_from(signed(&block[136..148]).max(0)).unwrap_or(u32::MAX),
        };
        let kind = block[156];
        let mut sparse = None;
        let mut map_in_data = false;
        if kind == b'S' {
            sparse = Some((number(&block[483..495])?, self.gnu_sparse_map(block)?));
        } else if let Some(real) = pax_number("GNU.sparse.realsize")?.or(pax_number("GNU.sparse.size")?) {
            map_in_data = pax("GNU.sparse.major").is_some_and(|v| v == b"1");
            let map = match pax("GNU.sparse.map") {
                Some(map) => sparse_map(map)?,
                None => std::mem::take(&mut announced.sparse),
            };
            sparse = Some((real, map));
        }
        Ok(Header {
            kind,
            mode: (number(&block[100..108])? & 0o7777) as u16,
            uid: id("uid", &block[108..116])?,
            gid: id("gid", &block[116..124])?,
            mtime,
            link,
            device: (number(&block[329..337])? as u32, number(&block[337..345])? as u32),
            stored,
            sparse,
            map_in_data,
            xattrs: xattrs(records),
            path,
        })
    }

    /// The old GNU format keeps four parts in the header and twenty-one in each further block.
    fn gnu_sparse_map(&mut self, block: &[u8; BLOCK]) -> Result<Vec<(u64, u64)>> {
        let mut map = Vec::new();
        let mut take = |part: &[u8]| -> Result<()> {
            for record in part.chunks_exact(24) {
                if record[0] != 0 {
                    map.push((number(&record[..12])?, number(&record[12..])?));
                }
            }
            if map.len() > MOST_HOLES {
                Err(Failure::corrupt("a sparse file has too many parts"))
            } else {
                Ok(())
            }
        };
        take(&block[386..482])?;
        let mut more = block[482] != 0;
        while more {
            let mut next = [0; BLOCK];
            self.read_exact(&mut next)?;
            take(&next[..504])?;
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
        let mut attributes = Attributes {
            mode: header.mode,
            uid: header.uid,
            gid: header.gid,
            mtime: header.mtime,
            xattrs: self.shared_xattrs(header.xattrs.clone()),
        };
        if name.starts_with(WHITEOUT) {
            self.skip(header.stored)?;
            self.skip_padding(header.stored)?;
            return whiteout(parent, name).map(|(path, what)| Some(Entry { path, attributes, what }));
        }
        // An old archive marks a directory by its name.
        let directory =
            header.kind == b'5' || (matches!(header.kind, b'0' | 0) && header.path.ends_with(b"/"));
        let stored =
            if matches!(header.kind, b'0' | 0 | b'7' | b'S') && !directory { 0 } else { header.stored };
        let what = match header.kind {
            _ if directory => What::Directory,
            b'0' | 0 | b'7' | b'S' => {
                let take = match wanted {
                    Wanted::Visible(shadow) => !shadow.hides(&path),
                    Wanted::Only(numbers) => numbers.contains_key(&number),
                };
                let (size, written) = self.file(&header, take, sink)?;
                let content = written.map_or(Content::Skipped { layer, entry: number }, Content::Written);
                What::File { size, content }
            }
            b'1' => What::HardLink { target: clean_path(&header.link)? },
            b'2' => {
                attributes.mode = 0o777;
                if header.link.is_empty() || header.link.len() > 4095 {
                    return Err(Failure::corrupt(
                        "a symbolic link's target is empty or longer than 4095 bytes",
                    ));
                }
                What::Symlink { target: header.link }
            }
            b'3' => What::Device {
                kind: kind::CHARACTER,
                number: encode_device(header.device.0, header.device.1),
            },
            b'4' => {
                What::Device { kind: kind::BLOCK, number: encode_device(header.device.0, header.device.1) }
            }
            b'6' => What::Fifo,
            other => {
                sink.warn(format!(
                    "`{}` has the unknown type `{}` and was left out",
                    String::from_utf8_lossy(&path),
                    char::from(other).escape_default()
                ));
                self.skip(stored)?;
                self.skip_padding(stored)?;
                return Ok(None);
            }
        };
        self.skip(stored)?;
        self.skip_padding(stored)?;
        if path.is_empty() && what != What::Directory {
            return Err(Failure::corrupt("the root of the layer is not a directory"));
        }
        Ok(Some(Entry { path, attributes, what }))
    }

    /// Passes the content on, or over; the size of the file, and its number if it was taken.
    fn file(&mut self, header: &Header, take: bool, sink: &mut dyn Sink) -> Result<(u64, Option<u32>)> {
        let mut left = header.stored;
        let Some((size, map)) = &header.sparse else {
            if !take {
                self.skip(left)?;
                self.skip_padding(header.stored)?;
                return Ok((left, None));
            }
            sink.begin(left)?;
            self.pass(left, sink)?;
            self.skip_padding(header.stored)?;
            return Ok((header.stored, Some(sink.finish()?)));
        };
        let map = if header.map_in_data { self.map_before_data(&mut left)? } else { map.clone() };
        let mut at = 0;
        for &(offset, length) in &map {
            let end = offset.checked_add(length).filter(|end| *end <= *size && offset >= at);
            at = end.ok_or_else(|| Failure::corrupt("a sparse file's parts do not fit its size"))?;
        }
        if map.iter().map(|(_, length)| length).sum::<u64>() != left || *size > i64::MAX as u64 {
            return Err(Failure::corrupt("a sparse file's parts do not fit its size"));
        }
        if !take {
            self.skip(left)?;
            self.skip_padding(header.stored)?;
            return Ok((*size, None));
        }
        sink.begin(*size)?;
        at = 0;
        for (offset, length) in map {
            sink.hole(offset - at)?;
            self.pass(length, sink)?;
            at = offset + length;
        }
        sink.hole(size - at)?;
        self.skip_padding(header.stored)?;
        Ok((*size, Some(sink.finish()?)))
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

    /// PAX 1.0: decimal numbers on lines of their own, padded to a block: count, then offset and length of each part.
    fn map_before_data(&mut self, left: &mut u64) -> Result<Vec<(u64, u64)>> {
        let malformed = || Failure::corrupt("a sparse file's map is malformed");
        let mut numbers: Vec<u64> = Vec::new();
        let mut digits = Vec::new();
        let mut total = 1;
        while numbers.len() < total {
            if *left < BLOCK as u64 {
                return Err(malformed());
            }
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            *left -= BLOCK as u64;
            for byte in block {
                match byte {
                    b'\n' => {
                        numbers.push(decimal(&digits)?);
                        digits.clear();
                        if let [count] = numbers[..] {
                            if count > MOST_HOLES as u64 {
                                return Err(malformed());
                            }
                            total = 1 + 2 * count as usize;
                        }
                        if numbers.len() == total {
                            break;
                        }
                    }
                    _ if digits.len() < 20 => digits.push(byte),
                    _ => return Err(malformed()),
                }
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn shared_xattrs(&mut self, xattrs: Xattrs) -> Option<Arc<Xattrs>> {
        if xattrs.is_empty() {
            return None;
        }
        Some(Arc::clone(self.xattr_sets.entry(xattrs.clone()).or_insert_with(|| Arc::new(xattrs))))
    }
}

/// `.wh.NAME` beside the files it removes, `.wh..wh..opq` inside the directory that it empties.
fn whiteout(parent: &[u8], name: &[u8]) -> Result<(Path, What)> {
    if name == OPAQUE {
        return Ok((parent.to_vec(), What::Opaque));
    }
    let removed = &name[WHITEOUT.len()..];
    if removed.is_empty() || removed == b"." || removed == b".." {
        return Err(Failure::corrupt("a whiteout names nothing"));
    }
    let path = if parent.is_empty() { removed.to_vec() } else { [parent, b"/", removed].concat() };
    Ok((path, What::Whiteout))
}

impl Announced {
    /// Records of a PAX header: `LENGTH KEY=VALUE\n`, the length counting the whole record.
    fn take(&mut self, mut content: &[u8]) -> Result<()> {
        let malformed = || Failure::corrupt("a PAX header is malformed");
        let mut offset = None;
        while !content.is_empty() && content[0] != 0 {
            let space = content.iter().take(20).position(|&b| b == b' ').ok_or_else(malformed)?;
            let length = usize::try_from(decimal(&content[..space])?).map_err(|_| malformed())?;
            if length <= space + 1 || length > content.len() || content[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &content[space + 1..length - 1];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"GNU.sparse.offset" => offset = Some(decimal(value)?),
                b"GNU.sparse.numbytes" => {
                    self.sparse.push((offset.take().ok_or_else(malformed)?, decimal(value)?));
                }
                b"path" | b"linkpath" if value.contains(&0) => return Err(malformed()),
                _ => {
                    self.records.insert(key.to_vec(), value.to_vec());
                }
            }
            content = &content[length..];
        }
        Ok(())
    }
}

/// Attributes in PAX records: `SCHILY.xattr.` holds raw bytes, `LIBARCHIVE.xattr.` a URL-encoded name and base64.
fn xattrs(records: &HashMap<Vec<u8>, Vec<u8>>) -> Xattrs {
    let mut found = Xattrs::new();
    for (key, value) in records {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            found.push((name.to_vec(), value.clone()));
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.")
            && !records.contains_key(&[b"SCHILY.xattr.", name].concat())
        {
            found.push((url_decoded(name), base64_decoded(value)));
        }
    }
    found.retain(|(name, value)| {
        name.len() <= 255 && !name.is_empty() && value.len() <= 65536 && !name.contains(&0)
    });
    found.sort();
    found
}

fn url_decoded(text: &[u8]) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        match rest {
            [b'%', high, low, tail @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                out.push((hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0)) as u8);
                rest = tail;
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

fn base64_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for &byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

/// A number field: octal text, or base 256 where the first bit is set.
fn number(field: &[u8]) -> Result<u64> {
    let malformed = || Failure::corrupt("a number in a header is malformed");
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x3F);
        if field[0] & 0x40 != 0 {
            return Err(Failure::corrupt("a number in a header is negative"));
        }
        for &byte in &field[1..] {
            value = value.checked_mul(256).ok_or_else(malformed)? | u64::from(byte);
        }
        return Ok(value);
    }
    let digits = text(field).trim_ascii();
    let mut value: u64 = 0;
    for &digit in digits {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(malformed());
        }
        value = value.checked_mul(8).ok_or_else(malformed)? + u64::from(digit - b'0');
    }
    Ok(value)
}

/// As [`number`], but times may lie before 1970; anything unreadable is 0.
fn signed(field: &[u8]) -> i64 {
    if field[0] == 0xFF { -1 } else { number(field).ok().and_then(|v| i64::try_from(v).ok()).unwrap_or(0) }
}

fn decimal(digits: &[u8]) -> Result<u64> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::corrupt("a number in a PAX header is malformed"))
}

/// Whole seconds of a PAX time, within what the format can hold.
fn seconds(value: &[u8]) -> u32 {
    if value.starts_with(b"-") {
        return 0;
    }
    let whole = value.split(|&b| b == b'.').next().unwrap_or_default();
    decimal(whole).map_or(0, |seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// `offset,length,offset,length…` (PAX 0.1).
fn sparse_map(text: &[u8]) -> Result<Vec<(u64, u64)>> {
    let numbers = text.split(|&b| b == b',').map(decimal).collect::<Result<Vec<u64>>>()?;
    if numbers.len() % 2 != 0 || numbers.len() / 2 > MOST_HOLES {
        return Err(Failure::corrupt("a sparse file's map is malformed"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Sum of all bytes, those of the sum itself taken as blanks; old writers summed signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<()> {
    let stored = number(&block[148..156])?;
    let (mut unsigned, mut signed) = (0u64, 0i64);
    for (i, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte as i8);
    }
    if stored == unsigned || i64::try_from(stored) == Ok(signed) {
        Ok(())
    } else {
        Err(Failure::corrupt("it is not a tar archive, or a header is damaged"))
    }
}
