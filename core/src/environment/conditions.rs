//! `test` and `[`, as far as POSIX defines them: by the number of words, never by guessing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

use super::evaluate::{Step, declined};

type Words = [Vec<u8>];

/// Whether the words hold.
pub fn test(words: &Words, line: usize) -> Step<bool> {
    match words {
        [] => Ok(false),
        [word] => Ok(!word.is_empty()),
        [not, word] if not == b"!" => Ok(word.is_empty()),
        [operator, word] => unary(operator, word).ok_or_else(|| declined(line, "a test")),
        [left, operator, right] => {
            // Between these even `=` may be no operator.
            if is_ambiguous(left) || is_ambiguous(right) {
                if left == b"!" && !is_binary(operator) {
                    return Ok(!test(&words[1..], line)?);
                }
                return Err(declined(line, "a test that shells read differently"));
            }
            match operator.as_slice() {
                b"-a" => Ok(!left.is_empty() && !right.is_empty()),
                b"-o" => Ok(!left.is_empty() || !right.is_empty()),
                _ => binary(left, operator, right).ok_or_else(|| declined(line, "a test")),
            }
        }
        [not, rest @ ..] if not == b"!" && rest.len() == 3 => Ok(!test(rest, line)?),
        _ => joined(words, line),
    }
}

fn is_ambiguous(word: &[u8]) -> bool {
    matches!(word, b"!" | b"(" | b")")
}

fn is_binary(word: &[u8]) -> bool {
    matches!(word, b"=" | b"!=" | b"-a" | b"-o" | b"==" | b"<" | b">" | b"-nt" | b"-ot" | b"-ef")
        || matches!(word, b"-eq" | b"-ne" | b"-gt" | b"-ge" | b"-lt" | b"-le" | b"=~")
}

/// Tests joined by `-a` and `-o`. The words between may not look like operators: then there is only one way to read them.
fn joined(words: &Words, line: usize) -> Step<bool> {
    let unclear = || declined(line, "a test that shells read differently");
    if words.len() > 64 {
        return Err(unclear());
    }
    let is_operator = |word: &[u8]| is_ambiguous(word) || is_binary(word) || word.starts_with(b"-");
    let (mut any, mut all, mut at) = (false, true, 0);
    loop {
        let rest = &words[at..];
        let (mut negated, mut skipped) = (false, 0);
        while rest.get(skipped).is_some_and(|word| word == b"!") {
            negated = !negated;
            skipped += 1;
        }
        let (holds, length) = match &rest[skipped..] {
            [left, operator, right, ..]
                if !is_operator(left)
                    && is_binary(operator)
                    && !matches!(operator.as_slice(), b"-a" | b"-o") =>
            {
                if is_operator(right) {
                    return Err(unclear());
                }
                (binary(left, operator, right).ok_or_else(unclear)?, 3)
            }
            [operator, word, ..] if operator.starts_with(b"-") && !is_operator(word) => {
                (unary(operator, word).ok_or_else(unclear)?, 2)
            }
            _ => return Err(unclear()),
        };
        all &= holds != negated;
        at += skipped + length;
        match words.get(at).map(Vec::as_slice) {
            None => return Ok(any || all),
            Some(b"-a") => {}
            Some(b"-o") => {
                any |= all;
                all = true;
            }
            Some(_) => return Err(unclear()),
        }
        at += 1;
    }
}

/// `None`: an operator that not every shell has, or a word that it cannot take.
fn unary(operator: &[u8], word: &[u8]) -> Option<bool> {
    let path = Path::new(OsStr::from_bytes(word));
    let facts = || std::fs::metadata(path).ok();
    let may = |access| rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
    Some(match operator {
        b"-n" => !word.is_empty(),
        b"-z" => word.is_empty(),
        b"-e" => facts().is_some(),
        b"-f" => facts().is_some_and(|facts| facts.is_file()),
        b"-d" => facts().is_some_and(|facts| facts.is_dir()),
        b"-s" => facts().is_some_and(|facts| facts.len() > 0),
        b"-p" => facts().is_some_and(|facts| facts.file_type().is_fifo()),
        b"-S" => facts().is_some_and(|facts| facts.file_type().is_socket()),
        b"-c" => facts().is_some_and(|facts| facts.file_type().is_char_device()),
        b"-b" => facts().is_some_and(|facts| facts.file_type().is_block_device()),
        b"-h" | b"-L" => std::fs::symlink_metadata(path).is_ok_and(|facts| facts.is_symlink()),
        b"-r" => may(Access::READ_OK),
        b"-w" => may(Access::WRITE_OK),
        b"-x" => may(Access::EXEC_OK),
        _ => return None,
    })
}

fn binary(left: &[u8], operator: &[u8], right: &[u8]) -> Option<bool> {
    match operator {
        b"=" => return Some(left == right),
        b"!=" => return Some(left != right),
        _ => {}
    }
    let (left, right) = (number(left)?, number(right)?);
    Some(match operator {
        b"-eq" => left == right,
        b"-ne" => left != right,
        b"-gt" => left > right,
        b"-ge" => left >= right,
        b"-lt" => left < right,
        b"-le" => left <= right,
        _ => return None,
    })
}

/// A number that every shell takes for the same.
fn number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || digits.len() > 17 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str) -> Option<bool> {
        let words: Vec<Vec<u8>> = text.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        test(&words, 1).ok()
    }

    #[test]
    fn the_number_of_words_decides_what_they_mean() {
        assert_eq!(test(&[], 1), Ok(false));
        assert_eq!(holds("-n"), Some(true));
        assert_eq!(holds("! x"), Some(false));
        assert_eq!(holds("-n = -n"), Some(true));
        assert_eq!(holds("! -d /"), Some(false));
        assert_eq!(holds("! a = b"), Some(true));
    }

    #[test]
    fn joined_tests_bind_as_they_should() {
        assert_eq!(holds("-n x -o -n x -a -z x"), Some(true));
        assert_eq!(holds("-z x -a -n x -o a = a"), Some(true));
        assert_eq!(holds("a = a -a ! b = b"), Some(false));
        assert_eq!(holds("-n -n -a -n x"), None);
        assert_eq!(holds("a = a -a"), None);
    }

    #[test]
    fn what_only_some_shells_have_is_left_to_them() {
        for text in ["a == a", "a < b", "-v PATH", "/ -nt /", "( = )", "1 -eq x", "1 -eq +1", "a b"] {
            assert_eq!(holds(text), None, "{text}");
        }
    }
}
