//! Compiled Python (`.pyc`), which tells what source it was made from: by the source's time and size, or by a hash of it
//! (PEP 552). A layer whose times are changed has to change the former with them; and the latter, which compilers choose
//! when times are not to be trusted, costs reading and hashing every source at every start. Since the times of an image
//! are the same for ever, its compiled files can bear them.

/// Larger sources keep their hashes.
pub const LARGEST_SOURCE: u64 = 8 << 20;
/// Bytes before the code: magic, flags, then hash, or time and size.
pub const HEADER: usize = 16;

/// The source of a compiled file, in the same layer. time: as it is, the lowest 32 bits; becomes: as the image has it.
pub struct Source {
    pub time: u32,
    pub becomes: u32,
    pub size: u64,
}

/// Where the source of `directory/name` may be, relative to the directory.
pub fn sources(name: &[u8]) -> Option<[Vec<u8>; 2]> {
    let stem = name.strip_suffix(b".pyc")?;
    // `__pycache__/NAME.cpython-311.opt-1.pyc` is of `NAME.py` one directory up.
    let module = stem.split(|&byte| byte == b'.').next()?;
    Some([[stem, b".py"].concat(), [b"../", module, b".py"].concat()])
}

/// Makes the header of a compiled file agree with its source as it will be. `content` reads the source, if need be.
pub fn agree(head: &mut [u8], source: &Source, content: impl FnOnce() -> Option<Vec<u8>>) {
    let [low, high, b'\r', b'\n', ..] = *head else { return };
    if head.len() < HEADER {
        return;
    }
    // Before 3.7 (numbers from 3000 on; those of Python 2 from 20000) there were no flags, and never a hash.
    let old = matches!(u16::from_le_bytes([low, high]), 3000..3390 | 20000..);
    let flags = if old { 0 } else { word(head, 4) };
    let time = if old { 4 } else { 8 };
    match flags {
        0 if word(head, time) == source.time => {
            head[time..time + 4].copy_from_slice(&source.becomes.to_le_bytes());
        }
        // A hash that is compared at each start. One that is never compared stays.
        0b11 => {
            let key = u64::from(word(head, 0));
            let stored = &head[8..16];
            let same = content().is_some_and(|text| {
                // Of Python 3.11 and newer, of older.
                [1, 2].into_iter().any(|rounds| siphash(key, rounds, &text).to_le_bytes() == *stored)
            });
            if same {
                head[4..8].fill(0);
                head[8..12].copy_from_slice(&source.becomes.to_le_bytes());
                head[12..16].copy_from_slice(&(source.size as u32).to_le_bytes());
            }
        }
        _ => {}
    }
}

fn word(head: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

/// SipHash-1-3 or SipHash-2-4, by the rounds for each word, with the key (key, 0).
fn siphash(key: u64, rounds: usize, data: &[u8]) -> u64 {
    let mut v = [
        key ^ 0x736f_6d65_7073_6575,
        0x646f_7261_6e64_6f6d,
        key ^ 0x6c79_6765_6e65_7261,
        0x7465_6462_7974_6573,
    ];
    let take = |m: u64, v: &mut [u64; 4]| {
        v[3] ^= m;
        for _ in 0..rounds {
            round(v);
        }
        v[0] ^= m;
    };
    let mut words = data.chunks_exact(8);
    for part in &mut words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(part);
        take(u64::from_le_bytes(bytes), &mut v);
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    last[7] = data.len() as u8;
    take(u64::from_le_bytes(last), &mut v);
    v[2] ^= 0xFF;
    for _ in 0..rounds + 2 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"print('fine')\n";

    fn header(magic: u16, flags: u32, rest: [u8; 8]) -> Vec<u8> {
        [&magic.to_le_bytes()[..], b"\r\n", &flags.to_le_bytes(), &rest].concat()
    }

    /// What `_imp.source_hash` of Python 3.11 says of TEXT.
    const HASH: [u8; 8] = [0x84, 0x1, 0x44, 0xd0, 0x85, 0x1d, 0x98, 0x14];

    fn agreed(mut head: Vec<u8>, text: &[u8]) -> Vec<u8> {
        let source = Source { time: 2000, becomes: 1000, size: text.len() as u64 };
        agree(&mut head, &source, || Some(text.to_vec()));
        head
    }

    #[test]
    fn a_hash_that_fits_becomes_time_and_size() {
        let mut rest = [0; 8];
        rest[..4].copy_from_slice(&1000u32.to_le_bytes());
        rest[4..].copy_from_slice(&(TEXT.len() as u32).to_le_bytes());
        assert_eq!(agreed(header(3495, 3, HASH), TEXT), header(3495, 0, rest));
    }

    #[test]
    fn a_hash_of_something_else_or_one_that_nobody_compares_stays() {
        for head in [header(3495, 3, [7; 8]), header(3495, 1, HASH), header(3496, 3, HASH)] {
            assert_eq!(agreed(head.clone(), TEXT), head);
        }
        assert_eq!(agreed(header(3495, 3, HASH), b"changed since"), header(3495, 3, HASH));
    }

    #[test]
    fn siphash_is_that_of_the_paper() {
        // Appendix A has the key 00 01 02…; with rounds 2 and 4 the empty text under the key 0 gives this.
        assert_eq!(siphash(0, 2, b""), 0x1e92_4b9d_7377_00d7);
    }
}
