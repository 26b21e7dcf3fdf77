//! Maps of sparse files: which bytes of a file an archive stores. Four formats have been in use.

use super::super::{Failure, Result};
use super::field::{BLOCK, number};
use super::pax::decimal;

/// Most parts in one map.
const MOST_PARTS: usize = 1 << 20;

/// Offset and length of every stored part, in order.
pub type Map = Vec<(u64, u64)>;

fn malformed() -> Failure {
    Failure::corrupt("a sparse file's map is malformed")
}

/// Old GNU: records of two 12-byte numbers, four in the header and twenty-one in each block that follows.
pub fn add_gnu_records(map: &mut Map, records: &[u8]) -> Result<()> {
    for record in records.chunks_exact(24) {
        if record[0] != 0 {
            map.push((number(&record[..12])?, number(&record[12..])?));
        }
    }
    if map.len() > MOST_PARTS { Err(Failure::corrupt("a sparse file has too many parts")) } else { Ok(()) }
}

/// PAX 0.1: `offset,length,offset,length…`
pub fn from_text(text: &[u8]) -> Result<Map> {
    let numbers = text.split(|&b| b == b',').map(decimal).collect::<Result<Vec<u64>>>()?;
    if numbers.len() % 2 != 0 || numbers.len() / 2 > MOST_PARTS {
        return Err(malformed());
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// PAX 1.0: decimal numbers on lines of their own stand before the content, padded to a block: the count, then
/// offset and length of each part. `next_block` gives the blocks of the content, one after the other.
pub fn before_content(mut next_block: impl FnMut() -> Result<[u8; BLOCK]>) -> Result<Map> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut digits = Vec::new();
    let mut total = 1;
    while numbers.len() < total {
        for byte in next_block()? {
            match byte {
                b'\n' => {
                    numbers.push(decimal(&digits).map_err(|_| malformed())?);
                    digits.clear();
                    if let [count] = numbers[..] {
                        if count > MOST_PARTS as u64 {
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

/// Parts must follow one another inside the file and together be what is stored.
pub fn check(map: &Map, size: u64, stored: u64) -> Result<()> {
    let unfit = || Failure::corrupt("a sparse file's parts do not fit its size");
    let (mut at, mut sum) = (0, 0u64);
    for &(offset, length) in map {
        let end = offset.checked_add(length).filter(|end| *end <= size && offset >= at);
        at = end.ok_or_else(unfit)?;
        sum += length;
    }
    if sum == stored && size <= i64::MAX as u64 { Ok(()) } else { Err(unfit()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_before_the_content_may_take_several_blocks() {
        let mut text: Vec<u8> = b"200\n".to_vec();
        for i in 0..200 {
            text.extend_from_slice(format!("{}\n1\n", i * 10).as_bytes());
        }
        text.resize(text.len().next_multiple_of(BLOCK), 0);
        let blocks = text.chunks_exact(BLOCK).count();
        let mut left = text.chunks_exact(BLOCK);
        let mut taken = 0;
        let map = before_content(|| {
            taken += 1;
            left.next().map(|b| b.try_into().unwrap()).ok_or_else(malformed)
        })
        .unwrap();
        assert_eq!((map.len(), map[199], taken), (200, (1990, 1), blocks));
        assert!(before_content(|| Ok([b'9'; BLOCK])).is_err());
        assert!(before_content(|| Ok([0; BLOCK])).is_err());
    }

    #[test]
    fn parts_that_overlap_or_leave_the_file_are_refused() {
        assert!(check(&vec![(0, 10), (20, 10)], 30, 20).is_ok());
        assert!(check(&vec![(0, 0), (30, 0)], 30, 0).is_ok());
        for (map, stored) in
            [(vec![(0, 10), (5, 10)], 20), (vec![(20, 11)], 11), (vec![(u64::MAX, 2)], 2), (vec![(0, 10)], 9)]
        {
            assert!(check(&map, 30, stored).is_err());
        }
    }
}
