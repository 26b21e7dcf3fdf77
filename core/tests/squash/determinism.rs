//! The same input gives the same bytes: whatever the threads, the pipe, the offset, what is left in the file.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::core::{directory_layer, image_layer, squash, start, tar_layer, with};
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

/// What a step has written: a random tree, and files that no image holds, never twice the same.
fn written(work: &Path, name: &str, seed: u64, chance: u64) -> std::path::PathBuf {
    let upper = work.join(format!("{name}-{chance}"));
    std::fs::create_dir(&upper).unwrap();
    random(&upper, seed, 4096);
    let mut dice = Dice(chance);
    for place in ["log/apt", "aaa", "zzz"] {
        let folder = upper.join(place);
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..dice.below(9) {
            // Some are twins of a file that stays.
            let size = dice.pick(&[1, 700, 4095, 4096, 9000, 70_000]);
            let content = if dice.below(4) == 0 { vec![b'a'; size] } else { dice.content(size) };
            std::fs::write(folder.join(format!("trace{number}")), content).unwrap();
        }
    }
    for (number, size) in [700, 4096, 70_000].into_iter().enumerate() {
        std::fs::write(upper.join(format!("kept{number}")), vec![b'a'; size]).unwrap();
    }
    upper
}

/// Takes away what an earlier step has written, whatever it is, as an overlay without privilege does.
fn removes(upper: &Path, path: &str) {
    let mark = upper.join(path);
    if let Some(folder) = mark.parent() {
        std::fs::create_dir_all(folder).unwrap();
    }
    let _ = std::fs::remove_file(&mark);
    std::fs::write(&mark, "").unwrap();
    rustix::fs::setxattr(&mark, c"user.overlay.whiteout", b"y", rustix::fs::XattrFlags::empty()).unwrap();
}

#[test]
fn an_image_depends_on_the_files_that_it_holds_and_not_on_what_else_steps_wrote_or_how_that_was_kept() {
    for (seed, compressor, level) in
        [(1, "zstd", json!(null)), (3, "gzip", json!(1)), (4, "lz4", json!(null)), (5, "none", json!(null))]
    {
        let packing = json!({"compressor": compressor, "level": level, "block_size": 4096});
        let work = TempDir::new().unwrap();
        let mut base = Tar::default();
        base.file("base", &[b'b'; 9000]).file("aaa/trace1", b"of the base");
        let base = tar_layer(work.path(), "base.tar", &base.end());
        let without = json!(["log/apt/*", "*/trace*"]);
        let image = |layers: &[Value]| {
            let mut layers = layers.to_vec();
            layers.insert(0, base.clone());
            made(work.path(), json!(layers), with(packing.clone(), json!({"exclude": ["tmp"]})))
        };
        let mut images = Vec::new();
        for chance in 0..3 {
            let uppers = [
                written(work.path(), "first", seed, chance),
                written(work.path(), "second", seed + 50, chance + 10),
            ];
            for number in 0..chance {
                // Gone with the second step, or with what the image leaves out at the end.
                let size = 3000 * number as usize + 17;
                std::fs::write(uppers[0].join(format!("gone{number}")), Dice(chance).content(size)).unwrap();
                removes(&uppers[1], &format!("gone{number}"));
                std::fs::create_dir_all(uppers[1].join("tmp")).unwrap();
                std::fs::write(uppers[1].join(format!("tmp/{number}")), Dice(chance).content(size)).unwrap();
            }
            let at_once = uppers.each_ref().map(|upper| {
                with(directory_layer(upper), json!({"whiteouts": "overlay", "without": without, "clamp": 0}))
            });
            let kept = uppers.each_ref().map(|upper| {
                let layer = with(directory_layer(upper), json!({"whiteouts": "keep", "clamp": 0}));
                let path = upper.with_extension("squashfs");
                squash(&path, json!([layer]), packing.clone()).ok();
                with(image_layer(&path), json!({"whiteouts": "overlay", "without": without}))
            });
            let passed_on = kept.each_ref().map(|layer| with(layer.clone(), json!({"packed": packing})));
            images.push(image(&passed_on));
            images.push(image(&kept));
            images.push(image(&at_once));
        }
        assert!(images.iter().all(|image| *image == images[0]), "{seed} {compressor}");
    }
}

#[test]
fn large_files_of_a_layer_are_passed_on_and_not_packed_again() {
    let work = TempDir::new().unwrap();
    let tree = work.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("large"), Dice(1).content(4096).repeat(3)).unwrap();
    let packing = json!({"compressor": "zstd", "level": null, "block_size": 4096});
    let path = work.path().join("layer");
    squash(&path, json!([directory_layer(&tree)]), packing.clone()).ok();
    // The first block cannot be unpacked any more: who reads it fails.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[110..130].fill(0xFF);
    std::fs::write(&path, bytes).unwrap();
    let layer = with(image_layer(&path), json!({"whiteouts": "overlay", "without": ["nothing"]}));
    let read = squash(&work.path().join("read"), json!([layer]), packing.clone());
    assert_eq!(read.code(), "corrupt");
    made(work.path(), json!([with(layer, json!({"packed": packing}))]), packing);
}
