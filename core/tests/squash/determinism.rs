//! The same input gives the same bytes: whatever the threads, the pipe, the offset, what is left in the file.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::core::{directory_layer, squash, start, tar_layer, with};
use super::tar::{Member, Tar};
use super::trees::{Dice, random};

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn made(work: &Path, layers: Value, more: Value) -> Vec<u8> {
    let image = squash(&work.join("image"), layers, more).ok();
    std::fs::read(image).unwrap()
}

/// Files of all sizes, twins among them.
fn archive(seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut tar = Tar::default();
    let twin = dice.content(300_000);
    for i in 0..200 {
        let size = dice.pick(&[0, 10, 1000, 5000, 131_071, 131_072, 400_000]);
        let content = if dice.below(8) == 0 { twin.clone() } else { dice.content(size) };
        tar.file(&format!("d{}/f{i}", i % 7), &content);
    }
    tar.file("holes", &[vec![0; 500_000], vec![1; 100], vec![0; 300_000]].concat());
    tar.end()
}

#[test]
fn the_number_of_threads_does_not_show() {
    let work = TempDir::new().unwrap();
    let layer = tar_layer(work.path(), "layer.tar", &archive(7));
    for compressor in ["zstd", "gzip", "lz4", "xz", "none"] {
        let request =
            |threads: u32| json!({"threads": threads, "compressor": compressor, "block_size": 65_536});
        let reference = made(work.path(), json!([layer]), request(1));
        for threads in [3, 9] {
            assert!(
                made(work.path(), json!([layer]), request(threads)) == reference,
                "{compressor} {threads}"
            );
        }
    }
}

#[test]
fn how_the_pipe_was_cut_up_does_not_show() {
    let work = TempDir::new().unwrap();
    let content = archive(8);
    let layer = tar_layer(work.path(), "layer.tar", &content);
    let reference = made(work.path(), json!([layer]), json!({}));
    for seed in 0..4 {
        let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let layers = json!([{"kind": "tar", "fd": 0, "path": null}]);
        let running = start(&work.path().join("piped"), layers, json!({}), &[&read_end]);
        drop(read_end);
        let mut pipe = std::fs::File::from(write_end);
        let mut dice = Dice(seed);
        let mut rest = &content[..];
        while !rest.is_empty() {
            let count = (1 + dice.below(if seed == 0 { 3000 } else { 100_000 }) as usize).min(rest.len());
            pipe.write_all(&rest[..count]).unwrap();
            rest = &rest[count..];
        }
        drop(pipe);
        let outcome = running.wait();
        let told = outcome.events.iter().find(|event| event["event"] == "layer").unwrap();
        assert_eq!(told["diff_id"], format!("sha256:{}", digest(&content)));
        assert!(std::fs::read(outcome.ok()).unwrap() == reference);
    }
}

#[test]
fn a_tree_and_its_copy_give_the_same_image() {
    let work = TempDir::new().unwrap();
    let (first, second) = (work.path().join("first"), work.path().join("second"));
    for path in [&first, &second] {
        std::fs::create_dir(path).unwrap();
        random(path, 99, 131_072);
        // Links and pipes have the time of their making; an image cannot be the same with them.
    }
    let layer = |path: &Path| with(directory_layer(path), json!({"clamp": 0}));
    let one = made(work.path(), json!([layer(&first)]), json!({"epoch": 0}));
    let two = made(work.path(), json!([layer(&second)]), json!({"epoch": 0}));
    assert!(one == two);
}

#[test]
fn holes_and_zeros_give_the_same_image() {
    let work = TempDir::new().unwrap();
    let (holes, zeros) = (work.path().join("holes"), work.path().join("zeros"));
    for path in [&holes, &zeros] {
        std::fs::create_dir(path).unwrap();
    }
    for name in ["one", "two"] {
        let file = std::fs::File::create(holes.join(name)).unwrap();
        file.set_len(3_000_000).unwrap();
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(1_500_000)).unwrap();
        (&file).write_all(b"in the middle").unwrap();
        let mut content = vec![0; 3_000_000];
        content[1_500_000..1_500_013].copy_from_slice(b"in the middle");
        std::fs::write(zeros.join(name), content).unwrap();
    }
    // A hole in one and bytes in the other are twins all the same.
    std::fs::copy(zeros.join("one"), holes.join("two")).unwrap();
    let layer = |path: &Path| with(directory_layer(path), json!({"clamp": 0}));
    let one = made(work.path(), json!([layer(&holes)]), json!({"epoch": 0}));
    assert!(one == made(work.path(), json!([layer(&zeros)]), json!({"epoch": 0})));
    assert!(one.len() <= 8192, "zeros are stored: {}", one.len());
}

#[test]
fn an_image_within_a_file_is_the_image_alone_and_nothing_is_left_behind_it() {
    let work = TempDir::new().unwrap();
    let mut tar = Tar::default();
    let noise = Dice(3).content(900_000);
    // The last thing read is a duplicate: its blocks were written and given back.
    tar.file("a", &noise).file("b", &noise);
    let layer = tar_layer(work.path(), "layer.tar", &tar.end());
    let alone = made(work.path(), json!([layer]), json!({}));
    let within = made(work.path(), json!([layer]), json!({"offset": 40_960}));
    assert!(within[40_960..] == alone);
    assert_eq!(alone.len() % 4096, 0);
}

/// The bytes of a small image. A change of one byte is a change of every user's digests: it must be meant.
#[test]
fn the_bytes_of_an_image_do_not_change_from_one_version_to_the_next() {
    let work = TempDir::new().unwrap();
    let mut tar = Tar::default();
    tar.directory("bin").file("bin/true", &[b'x'; 5000]).file("empty", b"").symlink("link", "bin/true");
    tar.hard_link("again", "bin/true").file("large", &[b'y'; 300_000]).file("zeros", &[0; 200_000]);
    let pipe = Member { name: b"pipe", kind: b'6', owner: (3, 4), ..Member::default() };
    let null = Member { name: b"null", kind: b'3', device: (1, 3), mode: 0o666, ..Member::default() };
    let layer = tar_layer(work.path(), "layer.tar", &tar.member(&pipe).member(&null).end());
    for (compressor, expected) in [
        ("none", "58fa4eba589a47deb2cab4d201e4b5ac6c03e07dd369c583f28ed72154c1233e"),
        ("zstd", "7acc160deff362a35dde5ce1f151173a7c850bb1529e92400210bec0abc60dea"),
        ("gzip", "f1819c398a8112db52867a6896ab2b238427de99c067b8c9789bc42eb5a83055"),
        ("xz", "09ea92897cb9fa707676df40364f6bcc74c23bf4b1b81a8ce4a3a13e383151e7"),
        ("lz4", "020ddec9a16fffa13acf5f53a91fb9b6898995dabd948a3fd2a8009dee9321e3"),
    ] {
        let image = made(work.path(), json!([layer]), json!({"compressor": compressor}));
        assert_eq!(digest(&image), expected, "{compressor}");
    }
}
