//! The fields of a tar header: text and numbers as the formats spell them.

use super::super::{Failure, Result};

pub const BLOCK: usize = 512;

/// Up to the first NUL.
pub fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

/// A number field: octal text, or base 256 where the first bit is set.
pub fn number(field: &[u8]) -> Result<u64> {
    let malformed = || Failure::corrupt("a number in a header is malformed");
    if field[0] & 0x80 != 0 {
        if field[0] & 0x40 != 0 {
            return Err(Failure::corrupt("a number in a header is negative"));
        }
        let mut value = u64::from(field[0] & 0x3F);
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

/// A time: whole seconds, those before 1970 as 1970, those that the format cannot hold as its last.
pub fn time(field: &[u8]) -> Result<u32> {
    if field[0] & 0xC0 == 0xC0 {
        return Ok(0);
    }
    // Some old writers put a sign before the octal digits.
    if text(field).trim_ascii().starts_with(b"-") {
        return Ok(0);
    }
    Ok(u32::try_from(number(field)?).unwrap_or(u32::MAX))
}

/// Sum of all bytes, those of the sum itself taken as blanks; old writers summed signed bytes.
pub fn check_sum(block: &[u8; BLOCK]) -> Result<()> {
    let not_tar = || Failure::corrupt("it is not a tar archive, or a header is damaged");
    let stored = number(&block[148..156]).map_err(|_| not_tar())?;
    let (mut unsigned, mut signed) = (0u64, 0i64);
    for (i, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte as i8);
    }
    if stored == unsigned || i64::try_from(stored) == Ok(signed) { Ok(()) } else { Err(not_tar()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\x02\0\0\0").unwrap(), 2 << 24);
        assert!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe").is_err());
        assert!(number(b"0000689\0").is_err());
        assert!(number(b"\x80\x01\0\0\0\0\0\0\0\0\0\0").is_err());
    }

    #[test]
    fn times_before_1970_are_1970() {
        assert_eq!(time(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0").unwrap(), 0);
        assert_eq!(time(b"-1234567890\0").unwrap(), 0);
        assert_eq!(time(b"\x80\0\0\0\0\0\0\x7f\0\0\0\0").unwrap(), u32::MAX);
    }
}
