//! Hostile inputs written by hand, as code: what is wrong with each, and that it is said or does no harm.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use soliton_core::layers::Result;
use soliton_core::squashfs::format::Error;
use soliton_core::squashfs::inode::Inode;
use soliton_core::squashfs::reader::Image;

use super::archives::{BLOCK_SIZE, pax, read_as_layer, record, squash};
use super::guard::watched;
use super::images::{open, walk};
use super::tar::{Member, Tar};

const INODE_TABLE: usize = 64;
const DIRECTORY_TABLE: usize = 72;
const FRAGMENT_TABLE: usize = 80;

fn field(image: &[u8], at: usize) -> usize {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn opened(bytes: &[u8]) -> soliton_core::squashfs::format::Result<Image> {
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.write_all_at(bytes, 0).unwrap();
    open(&file, bytes.len() as u64)
}

/// Bytes that zlib makes a thousand times more of, filled to one block.
fn bomb() -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 3_000_000]).unwrap();
    let mut bytes = encoder.finish().unwrap();
    assert!(bytes.len() < BLOCK_SIZE as usize);
    bytes.resize(BLOCK_SIZE as usize, 0);
    bytes
}

/// An image with every record in the open, as all tables are stored as they are.
fn plain() -> Vec<u8> {
    let mut tar = Tar::default();
    tar.directory("dir").directory("dir/inner").file("small", b"tail").file("whole", &bomb());
    pax(&mut tar, &[("SCHILY.xattr.user.name", "value")]);
    tar.file("with-xattr", b"x");
    squash(&[&tar.end()]).unwrap()
}

/// Where the record of a path's inode begins.
fn inode_at(bytes: &[u8], path: &str) -> (usize, Inode) {
    let inode = opened(bytes).unwrap().resolve(path.as_bytes(), false).unwrap();
    assert!(inode.reference >> 16 == 0, "all inodes are in the first block");
    (field(bytes, INODE_TABLE) + 2 + inode.reference as usize, inode)
}

/// Where the record of a name in a listing begins.
fn entry_at(bytes: &[u8], name: &str) -> usize {
    let table = field(bytes, DIRECTORY_TABLE);
    let found = bytes[table..].windows(name.len()).position(|window| window == name.as_bytes());
    table + found.unwrap() - 8
}

#[test]
fn the_plain_image_is_whole_before_it_is_damaged() {
    let image = opened(&plain()).unwrap();
    assert_eq!(walk(&image), 0);
    assert_eq!(read_as_layer(&image).unwrap(), 6);
}

#[test]
fn an_impossible_superblock_is_refused_when_the_image_is_opened() {
    let whole = plain();
    let far = u64::MAX - 1;
    let beyond = whole.len() as u64;
    for (number, (at, value)) in [
        (0, &b"hsqx"[..]),
        (4, &[0; 4]),
        (12, &[0; 4]),
        (12, &0x8000_0000u32.to_le_bytes()),
        (12, &5000u32.to_le_bytes()),
        (20, &9u16.to_le_bytes()),
        (22, &40u16.to_le_bytes()),
        (26, &[0; 2]),
        (26, &[0xFF; 2]),
        (28, &3u16.to_le_bytes()),
        (40, &far.to_le_bytes()),
        (48, &far.to_le_bytes()),
        (INODE_TABLE, &beyond.to_le_bytes()),
        (INODE_TABLE, &far.to_le_bytes()),
        (DIRECTORY_TABLE, &[0; 8]),
        (FRAGMENT_TABLE, &far.to_le_bytes()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut bytes = whole.clone();
        put(&mut bytes, at, value);
        let refused = watched("superblock", number as u64, || opened(&bytes).is_err());
        assert!(refused, "{value:?} at {at}");
    }
    for length in [0, 1, 50, 95, 96] {
        assert!(opened(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_directory_inside_itself_is_refused_as_a_layer() {
    let mut bytes = plain();
    let (_, root) = inode_at(&bytes, "");
    let (_, inner) = inode_at(&bytes, "dir/inner");
    let entry = entry_at(&bytes, "inner");
    let delta = i16::from_le_bytes(bytes[entry + 2..entry + 4].try_into().unwrap());
    let delta = i32::from(delta) + root.number as i32 - inner.number as i32;
    put(&mut bytes, entry, &(root.reference as u16).to_le_bytes());
    put(&mut bytes, entry + 2, &(delta as i16).to_le_bytes());
    let image = opened(&bytes).unwrap();
    assert_eq!(image.resolve(b"dir/inner/dir/inner", false).unwrap().number, root.number, "it is a loop");
    assert_eq!(read_as_layer(&image).unwrap_err().code, "corrupt");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["small", "inner"] {
        for wrong in [&b"/"[..], b"..", b"\0"] {
            let mut bytes = plain();
            let entry = entry_at(&bytes, name);
            put(&mut bytes, entry + 8, wrong);
            if wrong == b".." {
                // The name is no longer than this.
                put(&mut bytes, entry + 6, &1u16.to_le_bytes());
            }
            let image = opened(&bytes).unwrap();
            assert!(walk(&image) > 0, "{name} {wrong:?}");
            assert_eq!(read_as_layer(&image).unwrap_err().code, "corrupt", "{name} {wrong:?}");
        }
    }
}

#[test]
fn content_that_is_not_there_is_an_error_of_the_file() {
    let read = |bytes: &[u8], path: &str| {
        let image = opened(bytes).unwrap();
        let inode = image.resolve(path.as_bytes(), false).unwrap();
        image.read_file(&inode, 0, &mut [0; 64])
    };
    let mut bytes = plain();
    let (at, _) = inode_at(&bytes, "small");
    put(&mut bytes, at + 20, &1000u32.to_le_bytes());
    assert!(matches!(read(&bytes, "small"), Err(Error::Corrupt(_))), "a fragment beyond the table");

    let mut bytes = plain();
    let (at, _) = inode_at(&bytes, "small");
    put(&mut bytes, at + 24, &0xFFFF_FFF0u32.to_le_bytes());
    assert!(matches!(read(&bytes, "small"), Err(Error::Corrupt(_))), "an offset beyond the fragment");

    let mut bytes = plain();
    let (at, _) = inode_at(&bytes, "whole");
    put(&mut bytes, at + 16, &0xFFFF_0000u32.to_le_bytes());
    assert!(matches!(read(&bytes, "whole"), Err(Error::Corrupt(_))), "blocks beyond the image");

    let mut bytes = plain();
    let (at, _) = inode_at(&bytes, "whole");
    put(&mut bytes, at + 28, &u32::MAX.to_le_bytes());
    assert!(matches!(read(&bytes, "whole"), Err(Error::Corrupt(_))), "more blocks than the table has");

    let mut bytes = plain();
    let (at, _) = inode_at(&bytes, "whole");
    // No longer marked as stored as it is.
    put(&mut bytes, at + 32, &BLOCK_SIZE.to_le_bytes());
    assert!(matches!(read(&bytes, "whole"), Err(Error::Corrupt(_))), "a bomb");
}

#[test]
fn an_attribute_set_that_is_not_there_is_an_error() {
    let mut bytes = plain();
    let (at, inode) = inode_at(&bytes, "with-xattr");
    assert_eq!(opened(&bytes).unwrap().xattrs(&inode).unwrap(), [(b"user.name".to_vec(), b"value".to_vec())]);
    put(&mut bytes, at + 52, &77u32.to_le_bytes());
    let (_, inode) = inode_at(&bytes, "with-xattr");
    assert!(matches!(opened(&bytes).unwrap().xattrs(&inode), Err(Error::Corrupt(_))));
}

/// An archive of one header whose fields are overwritten, its sum set right again.
fn with_field(member: &Member<'_>, field: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = Tar::default().member(member).end();
    put(&mut bytes, field, value);
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().map(|&b| u32::from(b)).sum();
    put(&mut bytes, 148, format!("{sum:06o}\0 ").as_bytes());
    bytes
}

fn with_records(records: &[(&str, &str)], data: &[u8]) -> Vec<u8> {
    let mut tar = Tar::default();
    pax(&mut tar, records);
    tar.file("f", data).end()
}

fn extension(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut tar = Tar::default();
    tar.member(&Member { name: b"x", kind, data, ..Member::default() }).file("f", b"x").end()
}

fn squashed(archive: &[u8]) -> Result<Image> {
    Ok(opened(&squash(&[archive])?)?)
}

#[test]
fn hostile_archives_are_refused_as_corrupt() {
    let file = Member { name: b"f", data: b"x", ..Member::default() };
    let huge = b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";
    let sparse = |size: &str, map: &str| {
        with_records(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)], b"0123456789")
    };
    let giant = record("comment", "x").replacen("13 ", "99999999999999 ", 1);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a negative size in base 256", with_field(&file, 124, &[0xFF; 12])),
        ("a negative size in text", with_field(&file, 124, b"-0000000001\0")),
        ("a huge size", with_field(&file, 124, huge)),
        ("a size beyond 64 bits", with_field(&file, 124, b"\x80\x01\0\0\0\0\0\0\0\0\0\0")),
        ("a huge extended header", with_field(&Member { kind: b'x', ..file }, 124, huge)),
        ("a huge long name", with_field(&Member { kind: b'L', ..file }, 124, huge)),
        ("a record longer than its header", extension(b'x', giant.as_bytes())),
        ("a record of no length", extension(b'x', b"0 a=b\n")),
        ("a huge size in a record", with_records(&[("size", "18446744073709551615")], b"x")),
        ("a size beyond all numbers", with_records(&[("size", "99999999999999999999")], b"x")),
        ("a sparse part beyond the size", sparse("20", "15,10")),
        ("sparse parts that overlap", sparse("100", "0,5,4,5")),
        ("a sparse part that wraps", sparse("100", "18446744073709551615,10")),
        ("an odd sparse map", sparse("100", "0,5,5")),
        ("a sparse file of 2^63 bytes", sparse("9223372036854775808", "0,10")),
        ("a sparse file of 2^62 bytes", sparse("4611686018427387904", "0,10")),
        ("a hard link to itself", Tar::default().hard_link("a", "a").end()),
        ("a hard link out of the layer", Tar::default().hard_link("a", "../../etc/passwd").end()),
        ("a hard link to nothing", Tar::default().hard_link("a", "none").end()),
        ("a hard link to a directory", Tar::default().directory("d").hard_link("a", "d").end()),
        ("a name that climbs", Tar::default().file("../f", b"x").end()),
        ("a name that climbs within", Tar::default().file("d/../../f", b"x").end()),
        ("a whiteout of the directory above", Tar::default().file(".wh...", b"").end()),
        ("a whiteout of the root", Tar::default().file(".wh..", b"").end()),
        ("a whiteout of nothing", Tar::default().file(".wh.", b"").end()),
        ("a root that is a file", Tar::default().symlink(".", "x").end()),
        ("a loop of links", Tar::default().symlink("l", "l").file("l/f", b"x").end()),
        ("too deep a path", with_records(&[("path", &"d/".repeat(1100))], b"")),
        ("a name too long", with_records(&[("path", &"n".repeat(256))], b"x")),
        ("not an archive", vec![b'x'; 3000]),
    ];
    for (number, (what, archive)) in cases.iter().enumerate() {
        match watched("archive", number as u64, || squashed(archive)) {
            Ok(_) => panic!("{what} was taken"),
            Err(failure) => assert_eq!(failure.code, "corrupt", "{what}: {failure}"),
        }
    }
}

#[test]
fn what_looks_hostile_but_has_a_meaning_stays_inside_the_image() {
    let absolute = squashed(&Tar::default().file("/etc/f", b"x").end()).unwrap();
    assert_eq!(absolute.resolve(b"etc/f", false).unwrap().size, 1);

    let climbing = Tar::default().symlink("up", "../../..").file("up/f", b"xy").end();
    assert_eq!(squashed(&climbing).unwrap().resolve(b"f", false).unwrap().size, 2);

    let away = Tar::default().symlink("away", "/tmp").file("away/f", b"xyz").end();
    assert_eq!(squashed(&away).unwrap().resolve(b"tmp/f", true).unwrap().size, 3);

    let again = Tar::default().file("f", b"1").directory("f").file("f", b"123").file("f", b"12").end();
    assert_eq!(squashed(&again).unwrap().resolve(b"f", false).unwrap().size, 2);
}
