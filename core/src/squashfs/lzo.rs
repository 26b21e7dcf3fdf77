//! A bounded decoder for raw LZO1X streams, the format of the kernel's `Documentation/staging/lzo.rst`.
//!
//! Images of other makers may use it; soliton itself never writes it.

/// Decompresses `source` into `target`; `None` for anything that is not a whole, well-formed stream that fits.
pub fn decompress(source: &[u8], target: &mut [u8]) -> Option<usize> {
    let mut stream = Decoder { source, read: 0, target, written: 0 };
    stream.run().map(|()| stream.written)
}

struct Decoder<'a> {
    source: &'a [u8],
    read: usize,
    target: &'a mut [u8],
    written: usize,
}

impl Decoder<'_> {
    /// `state` is what the previous instruction copied literally: 0 nothing, 1–3 that many, 4 a long run.
    fn run(&mut self) -> Option<()> {
        let mut state = 0;
        let first = *self.source.first()?;
        if first > 17 {
            self.read = 1;
            let count = usize::from(first) - 17;
            self.literals(count)?;
            state = count.min(4);
        }
        loop {
            let instruction = usize::from(self.byte()?);
            let (length, distance, trailing);
            match instruction {
                0..=15 if state == 0 => {
                    let count = if instruction == 0 { 15 + self.run_length()? } else { instruction } + 3;
                    self.literals(count)?;
                    state = 4;
                    continue;
                }
                0..=15 => {
                    let high = usize::from(self.byte()?);
                    let near = (high << 2) + (instruction >> 2);
                    (length, distance) = if state == 4 { (3, near + 2049) } else { (2, near + 1) };
                    trailing = instruction & 3;
                }
                16..=31 => {
                    let short = instruction & 7;
                    length = if short == 0 { 7 + self.run_length()? } else { short } + 2;
                    let word = self.word()?;
                    distance = 16384 + ((instruction & 8) << 11) + (word >> 2);
                    if distance == 16384 {
                        return (self.read == self.source.len()).then_some(());
                    }
                    trailing = word & 3;
                }
                32..=63 => {
                    let short = instruction & 31;
                    length = if short == 0 { 31 + self.run_length()? } else { short } + 2;
                    let word = self.word()?;
                    distance = (word >> 2) + 1;
                    trailing = word & 3;
                }
                _ => {
                    let high = usize::from(self.byte()?);
                    length = if instruction >= 128 {
                        5 + ((instruction >> 5) & 3)
                    } else {
                        3 + ((instruction >> 5) & 1)
                    };
                    distance = (high << 3) + ((instruction >> 2) & 7) + 1;
                    trailing = instruction & 3;
                }
            }
            self.copy(distance, length)?;
            self.literals(trailing)?;
            state = trailing;
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.source.get(self.read)?;
        self.read += 1;
        Some(byte)
    }

    fn word(&mut self) -> Option<usize> {
        Some(usize::from(self.byte()?) | usize::from(self.byte()?) << 8)
    }

    /// Zero bytes stand for 255 each; the first other byte ends the number.
    fn run_length(&mut self) -> Option<usize> {
        let mut sum = 0;
        loop {
            match self.byte()? {
                0 => sum += 255,
                last => return Some(sum + usize::from(last)),
            }
        }
    }

    fn literals(&mut self, count: usize) -> Option<()> {
        let from = self.source.get(self.read..self.read.checked_add(count)?)?;
        self.target.get_mut(self.written..self.written.checked_add(count)?)?.copy_from_slice(from);
        self.read += count;
        self.written += count;
        Some(())
    }

    fn copy(&mut self, distance: usize, length: usize) -> Option<()> {
        let from = self.written.checked_sub(distance)?;
        let end = self.written.checked_add(length)?;
        if end > self.target.len() {
            return None;
        }
        if distance >= length {
            self.target.copy_within(from..from + length, self.written);
        } else {
            // The source overlaps what is being written: byte by byte, as the format means it.
            for i in 0..length {
                self.target[self.written + i] = self.target[from + i];
            }
        }
        self.written = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::decompress;

    #[test]
    fn garbage_is_refused_or_stays_in_bounds() {
        let mut state = 1u64;
        for length in 0..2000usize {
            let garbage: Vec<u8> = (0..length % 97)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 56) as u8
                })
                .collect();
            let mut target = [0; 300];
            if let Some(count) = decompress(&garbage, &mut target) {
                assert!(count <= 300);
            }
        }
    }

    #[test]
    fn literals_and_an_overlapping_match() {
        // "ab" literally (17 + 2), a match of 8 from 2 back, the end.
        let stream = [19, b'a', b'b', 0xE4, 0x00, 0x11, 0, 0];
        let mut target = [0; 64];
        let count = decompress(&stream, &mut target).unwrap();
        assert_eq!(&target[..count], b"ababababab");
    }
}
