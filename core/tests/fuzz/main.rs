//! Hostile bytes for the core's parsers: images for the reader, archives for `squash`, plans for `launch`,
//! environment scripts.
//!
//! The ordinary run takes hostile inputs written by hand and some mutations, and takes seconds. The ignored ones mutate
//! for FUZZ_SECONDS each. A case that fails is named by its number; FUZZ_CASE=NUMBER repeats it alone.

#[allow(dead_code, reason = "the tests of the reader use the rest")]
#[path = "../images/mod.rs"]
mod images;
#[allow(dead_code, reason = "the tests of squash use the rest")]
#[path = "../squash/tar.rs"]
mod tar;

mod archives;
mod guard;
mod hostile;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use images::{Chance, walk};
use soliton_core::environment::{Interpreter, entry};
use soliton_core::plan::Plan;
use soliton_core::text::Text;

/// Mutations of each kind in the ordinary run.
const FEW: u64 = 1500;

/// Numbers of cases until the time is over, or those of the ordinary run.
fn cases(timed: bool) -> Box<dyn Iterator<Item = u64>> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if !timed {
        return Box::new(0..FEW);
    }
    if let Some(case) = variable("FUZZ_CASE") {
        return Box::new(std::iter::once(case));
    }
    let end = Instant::now() + Duration::from_secs(variable("FUZZ_SECONDS").unwrap_or(60));
    Box::new((0u64..).take_while(move |_| Instant::now() < end))
}

/// Runs every case under guard; `case` says whether its input was taken.
fn run(target: &'static str, timed: bool, mut case: impl FnMut(&mut Chance) -> bool) {
    let (mut count, mut taken) = (0, 0);
    for number in cases(timed) {
        // Neighbouring numbers must not give neighbouring chances.
        let mut chance = Chance((number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        taken += u64::from(guard::watched(target, number, || case(&mut chance)));
        count += 1;
    }
    println!("{target}: {count} cases, {taken} taken");
}

fn fuzz_images(timed: bool) {
    let seeds = archives::images();
    let file = Arc::new(tempfile::tempfile().unwrap());
    run("squashfs", timed, |chance| {
        let mut bytes = seeds[chance.below(seeds.len())].clone();
        let from = [0, bytes.len() / 2, bytes.len() * 9 / 10][chance.below(3)];
        let end = if chance.below(8) == 0 { 96 } else { bytes.len() };
        chance.damage(&mut bytes[from.min(end - 96)..end]);
        if chance.below(20) == 0 {
            bytes.truncate(chance.below(bytes.len()));
        }
        file.set_len(0).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        look_at(&file, bytes.len() as u64)
    });
}

/// Reads an image as the mount does, and as a layer of a build.
fn look_at(file: &Arc<File>, size: u64) -> bool {
    let Ok(image) = images::open(file, size) else { return false };
    walk(&image);
    archives::read_as_layer(&image).is_ok()
}

fn fuzz_archives(timed: bool) {
    let seeds = archives::seeds();
    run("tar", timed, |chance| {
        let mut bytes = seeds[chance.below(seeds.len())].clone();
        archives::damage(&mut bytes, chance);
        archives::squash(&[&seeds[0], &bytes]).is_ok()
    });
}

const PLAN: &str = r#"{"version":1,"identity":{"uid":1,"gid":2,"uid_map":[{"inside":0,"outside":1,"count":9}],
"groups":[5]},"root":{"kind":"image","path":"/a\udcff","offset":40960,"size":4096,"ids":"caller"},
"surface":{"kind":"upper","upper":"/u","work":"/w"},"mounts":[{"kind":"bind","source":"/a","target":"/b"},
{"kind":"tmpfs","target":"/t","size":64},{"kind":"group","groups":[["a",1]],"member":"m"}],
"process":{"action":"exec","argv":["/x"],"environment":{"host":{"A":"b"}},"cwd":["/"],"capabilities":["CHOWN"]},
"namespaces":["pid","net"],"copies":[{"source":"/a","target":"/b"}]}"#;

fn fuzz_plans(timed: bool) {
    const WORDS: [&str; 14] = [
        "null",
        "-1",
        "18446744073709551616",
        "1e999",
        "\"\\udcff\"",
        "\"\\ud800x\"",
        "[[[[[[[[",
        "{\"a\":",
        "{}",
        "[]",
        "\"kind\":\"overlay\"",
        "true",
        "\"\\u0000\"",
        "99999999999999999999999999",
    ];
    serde_json::from_str::<Plan>(PLAN).expect("the plan is whole before it is damaged");
    run("plan", timed, |chance| {
        let mut text = PLAN.as_bytes().to_vec();
        for _ in 0..=chance.below(4) {
            let at = chance.below(text.len().max(1)).min(text.len());
            let end = (at + chance.below(20)).min(text.len());
            match chance.below(4) {
                0 => chance.damage(&mut text),
                1 => drop(text.splice(at..end, WORDS[chance.below(WORDS.len())].bytes())),
                2 => drop(text.splice(at..at, "[".repeat(chance.below(100_000)).bytes())),
                _ => drop(text.drain(at..end)),
            }
        }
        serde_json::from_slice::<Plan>(&text).is_ok()
    });
}

/// Environment scripts, and environments that make them grow.
fn fuzz_environments(timed: bool) {
    const SEEDS: [&[u8]; 5] = [
        b"export PATH=\"${PATH:-\"/usr/bin\"}\"\nif [ -n \"${A:-}\" ] && ! [ -d /x -o a = b ]; then B=${A##*/}; elif true; then unset C; else :; fi\n",
        b"for i in $A /etc/*.d \"$@\" ~/x; do case $i in a*|[!0-9]) A=$A$A$i; continue;; (*) break;; esac; done\nexport A B=~:~\n",
        b"A=aaaaaaaaaaaaaaaa; for i in $L; do for j in $L; do A=$A$A; B=${A%%*a*b}${A#\"$A\"}; done; done\n",
        b"f() { x | y & }\n: `a` $(b \"$(c)\") ${A:=\"${B:+'x'}\"} >/dev/null 2>&1\nreturn 0\n. /dev/null\n. /proc/self/environ\n",
        b"OCI_ENTRYPOINT='\"/a\" \"b\"'\nOCI_CMD=''\n{ { ! true || false; } && X=\\$; }\\\n\n",
    ];
    const PIECES: [&str; 16] = [
        "${",
        "}",
        "\"",
        "'",
        "$(",
        ")",
        "`",
        "if ",
        "case a in ",
        "for i in ",
        "do ",
        "done ",
        "{ ",
        "[ ",
        "\\\n",
        "${A#",
    ];
    let words = "a b* ".repeat(200);
    run("environment", timed, |chance| {
        let mut text = SEEDS[chance.below(SEEDS.len())].to_vec();
        for _ in 0..chance.below(5) {
            let at = chance.below(text.len() + 1);
            let end = (at + chance.below(9)).min(text.len());
            let piece = PIECES[chance.below(PIECES.len())];
            match chance.below(6) {
                0 => chance.damage(&mut text),
                1 => drop(text.drain(at..end)),
                2 => drop(text.splice(at..at, piece.repeat(chance.below(3000)).bytes())),
                _ => drop(text.splice(at..at, piece.bytes())),
            }
        }
        let given: [(&[u8], &[u8]); 3] = [(b"PATH", b"/bin"), (b"L", words.as_bytes()), (b"HOME", b"/h")];
        let arguments = [Text::from("$HOME"), Text::new(text.clone())];
        let script = [b"#!/bin/sh\n", text.as_slice()].concat();
        drop(entry::words(&script, &arguments, &[], chance.below(2) == 0));
        let mut interpreter = Interpreter::new(given).unwrap();
        interpreter.lenient = chance.below(2) == 0;
        interpreter.text(&text).is_ok()
    });
}

#[test]
fn damaged_environment_scripts_cost_no_panic_no_time_and_no_memory() {
    fuzz_environments(false);
}

#[test]
#[ignore = "takes FUZZ_SECONDS"]
fn environment_for_long() {
    fuzz_environments(true);
}

#[test]
fn damaged_images_cost_no_panic_no_time_and_no_memory() {
    fuzz_images(false);
}

#[test]
fn damaged_archives_cost_no_panic_no_time_and_no_memory() {
    fuzz_archives(false);
}

#[test]
fn damaged_plans_cost_no_panic_no_time_and_no_memory() {
    fuzz_plans(false);
}

#[test]
#[ignore = "takes FUZZ_SECONDS"]
fn squashfs_for_long() {
    fuzz_images(true);
}

#[test]
#[ignore = "takes FUZZ_SECONDS"]
fn tar_for_long() {
    fuzz_archives(true);
}

#[test]
#[ignore = "takes FUZZ_SECONDS"]
fn plan_for_long() {
    fuzz_plans(true);
}
