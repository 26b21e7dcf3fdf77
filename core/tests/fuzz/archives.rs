//! Archives to start from, what is done to them, and the way of a layer through the core without its process.

use std::collections::HashMap;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use soliton_core::layers::shadow::{Shadow, Wanted};
use soliton_core::layers::squashfs::{self, Blocks, Taking};
use soliton_core::layers::stream::Stream;
use soliton_core::layers::tree::Tree;
use soliton_core::layers::{self, Marks, Result, Sink};
use soliton_core::squashfs::codec::Settings;
use soliton_core::squashfs::format::SUPERBLOCK_SIZE;
use soliton_core::squashfs::reader::Image;
use soliton_core::squashfs::writer::{DataWriter, Output, Parts, Pipeline, write_tables};

use super::images::{Chance, noise, text};
use super::tar::{Member, Tar};

pub const BLOCK_SIZE: u32 = 4096;

struct Contents(DataWriter);

impl Sink for Contents {
    fn begin(&mut self, size: u64) -> Result<()> {
        Ok(self.0.begin(size)?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write(bytes)?)
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        Ok(self.0.hole(length)?)
    }

    fn finish(&mut self) -> Result<u32> {
        Ok(self.0.finish()?)
    }

    fn warn(&mut self, _: String) {}
}

/// Takes content and forgets it.
struct Nowhere(u32);

impl Sink for Nowhere {
    fn begin(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn hole(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<u32> {
        self.0 += 1;
        Ok(self.0)
    }

    fn warn(&mut self, _: String) {}
}

/// Reads an image as a layer whose blocks stay as they are.
pub fn read_as_layer(image: &Image) -> Result<usize> {
    let shadow = Shadow::default();
    for marks in [Marks::Kept, Marks::CarriedOut] {
        let how = Taking { marks, without: &[], blocks: Blocks::Kept, shadow: &shadow, recorded: true };
        squashfs::read(image, how, 0, &Arc::default(), &mut Nowhere(0))?;
    }
    let how = Taking {
        marks: Marks::Ordinary,
        without: &[],
        blocks: Blocks::Kept,
        shadow: &shadow,
        recorded: false,
    };
    let entries = squashfs::read(image, how, 0, &Arc::default(), &mut Nowhere(0))?;
    let count = entries.len();
    Tree::new().apply(entries)?;
    Ok(count)
}

/// Makes an image of archives, in memory but for the output.
pub fn squash(archives: &[&[u8]]) -> Result<Vec<u8>> {
    squash_with(archives, "none")
}

pub fn squash_with(archives: &[&[u8]], compressor: &str) -> Result<Vec<u8>> {
    let settings = Settings::new(compressor, None).unwrap();
    let output = Output { file: Arc::new(tempfile::tempfile()?), base: 0 };
    let start = (SUPERBLOCK_SIZE + settings.options().map_or(0, |options| options.len())) as u64;
    let written = Arc::new(AtomicU64::new(0));
    let pipeline = Pipeline::start(output.clone(), start, settings, BLOCK_SIZE, 1, written)?;
    let mut contents = Contents(DataWriter::new(pipeline, BLOCK_SIZE));
    let mut tree = Tree::new();
    for (layer, archive) in archives.iter().enumerate() {
        let mut stream = Stream::start(Cursor::new(archive.to_vec()), Arc::default())?;
        let entries = layers::tar::read(&mut stream, layer as u32, &Wanted::Everything, &mut contents)?;
        tree.apply(entries)?;
    }
    let order = tree.reachable();
    let contents = contents.0.close()?;
    let copied = HashMap::new();
    let parts = Parts { tree: &tree, order: &order, contents: &contents, copied: &copied };
    write_tables(&output, &parts, settings, BLOCK_SIZE, 0)?;
    let mut image = vec![0; output.file.metadata()?.len() as usize];
    output.file.read_exact_at(&mut image, 0)?;
    Ok(image)
}

/// One PAX record, with the length that it states of itself.
pub fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|length| length.to_string().len() + rest == *length).unwrap();
    format!("{length} {key}={value}\n")
}

pub fn pax(tar: &mut Tar, records: &[(&str, &str)]) {
    let data: String = records.iter().map(|(key, value)| record(key, value)).collect();
    tar.member(&Member { name: b"pax", kind: b'x', data: data.as_bytes(), ..Member::default() });
}

fn everything() -> Tar {
    let mut tar = Tar::default();
    tar.directory("d").directory("d/e").file("d/e/f", b"text").symlink("l", "d").hard_link("d/h", "d/e/f");
    tar.file("l/through", &text(900)).file("blocks", &noise(9000, 7)).file("zeros", &[0; 9000]);
    let pipe = Member { name: b"p", kind: b'6', ..Member::default() };
    tar.member(&pipe).member(&Member { name: b"c", kind: b'3', device: (1, 3), ..Member::default() });
    pax(&mut tar, &[("path", &"long/".repeat(40)), ("SCHILY.xattr.user.a", "value"), ("mtime", "1.5")]);
    tar.file("short", b"x");
    tar
}

/// Archives with every kind of record.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut marks = Tar::default();
    marks.file(".wh.zeros", b"").file("d/.wh..wh..opq", b"").hard_link("again", "blocks").file("d/new", b"n");
    let mut sparse = Tar::default();
    let map = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "20000")];
    pax(&mut sparse, &map);
    let mut content = b"2\n0\n10\n10000\n10\n".to_vec();
    content.resize(512, 0);
    content.extend([b'x'; 20]);
    sparse.file("s1", &content);
    pax(&mut sparse, &[("GNU.sparse.size", "9000"), ("GNU.sparse.map", "0,5,8000,5")]);
    sparse.file("s01", b"0123456789");
    sparse.member(&Member { name: b"long", kind: b'L', data: b"a/long/name\0", ..Member::default() });
    sparse.file("cut", b"x");
    vec![everything().end(), marks.end(), sparse.end()]
}

/// Small images of every compressor, and one whose records are all in the open.
pub fn images() -> Vec<Vec<u8>> {
    let seeds = seeds();
    let layers = [&seeds[0][..], &seeds[2]];
    let plain = squash_with(&layers, "none").unwrap();
    let mut images = vec![plain; 4];
    images.extend(["gzip", "xz", "lz4", "zstd"].map(|name| squash_with(&layers, name).unwrap()));
    images
}

/// Damages fields and content; headers mostly keep a right sum, or nothing behind it would be reached.
pub fn damage(bytes: &mut Vec<u8>, chance: &mut Chance) {
    let is_header = |block: &[u8]| block[257..262] == *b"ustar";
    let headers: Vec<usize> = (0..bytes.len()).step_by(512).filter(|&at| is_header(&bytes[at..])).collect();
    const FIELDS: [(usize, usize); 9] =
        [(0, 100), (100, 8), (108, 8), (124, 12), (124, 12), (156, 1), (156, 1), (157, 100), (329, 16)];
    const KINDS: &[u8] = b"01234567xgLKSVMD\0\xff";
    const VALUES: [&[u8]; 11] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"77777777777\0",
        b"-0000000001\0",
        b"00000001000\0",
        b"../x\0",
        b"/abs\0",
        b".wh..wh..opq\0",
        b".wh..\0",
        b"l/x/\0",
        b"d\0",
    ];
    for _ in 0..=chance.below(3) {
        let header = headers[chance.below(headers.len())];
        let (field, length) = FIELDS[chance.below(FIELDS.len())];
        let place = &mut bytes[header + field..header + field + length];
        match chance.below(4) {
            0 => chance.damage(place),
            1 if length == 1 => place[0] = KINDS[chance.below(KINDS.len())],
            1 | 2 => {
                let value = VALUES[chance.below(VALUES.len())];
                let count = value.len().min(length);
                place[..count].copy_from_slice(&value[..count]);
            }
            _ => {
                let end = (header + 1536).min(bytes.len());
                chance.damage(&mut bytes[header + 511..end]);
            }
        }
    }
    if chance.below(8) > 0 {
        for header in headers {
            let block = &mut bytes[header..header + 512];
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    match chance.below(20) {
        0 => bytes.truncate(chance.below(bytes.len())),
        1 => bytes.extend_from_within(..),
        _ => {}
    }
}
