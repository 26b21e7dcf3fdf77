//! Patterns of `case`, `${x#…}` and file names (POSIX 2.13), on bytes.

/// A byte of a pattern or field, and whether quotes took its special meaning away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    pub byte: u8,
    pub quoted: bool,
}

/// An element of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Element {
    Any,
    One,
    Byte(u8),
    /// The bytes that fit.
    Set(Box<[bool; 256]>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Element>);

impl Pattern {
    /// None where shells disagree about the meaning: `[^…]`, collating elements.
    pub fn new(text: &[Marked]) -> Option<Pattern> {
        let mut elements = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some(marked) = text.get(at) {
            at += 1;
            elements.push(match marked.byte {
                b'*' if !marked.quoted => Element::Any,
                b'?' if !marked.quoted => Element::One,
                b'[' if !marked.quoted => match set(&text[at..])? {
                    Some((set, length)) => {
                        at += length;
                        Element::Set(Box::new(set))
                    }
                    None => Element::Byte(b'['),
                },
                byte => Element::Byte(byte),
            });
        }
        Some(Pattern(elements))
    }

    /// Whether there is anything but plain text in it.
    pub fn is_special(&self) -> bool {
        self.0.iter().any(|element| !matches!(element, Element::Byte(_)))
    }

    /// Whether the whole text fits: at most (elements × bytes) steps, taken off `left`. `None`: there were not enough.
    pub fn try_matches(&self, text: &[u8], left: &mut u64) -> Option<bool> {
        let (mut at, mut element) = (0, 0);
        // Where the last `*` stood, and how far it reaches: going back to it is all the backtracking there is.
        let mut star: Option<(usize, usize)> = None;
        while at < text.len() {
            *left = left.checked_sub(1)?;
            match self.0.get(element) {
                Some(Element::Any) => {
                    star = Some((element, at));
                    element += 1;
                    continue;
                }
                Some(Element::One) => {}
                Some(Element::Byte(byte)) if *byte == text[at] => {}
                Some(Element::Set(set)) if set[usize::from(text[at])] => {}
                _ => {
                    let Some((place, reached)) = star else { return Some(false) };
                    star = Some((place, reached + 1));
                    at = reached + 1;
                    element = place + 1;
                    continue;
                }
            }
            at += 1;
            element += 1;
        }
        *left = left.checked_sub(1)?;
        Some(self.0[element..].iter().all(|rest| *rest == Element::Any))
    }
}

/// The set that begins after `[`, and its length with `]`. `Some(None)`: no set at all, `None`: shells disagree.
#[allow(clippy::option_option)]
fn set(text: &[Marked]) -> Option<Option<([bool; 256], usize)>> {
    let mut fits = [false; 256];
    let mut at = 0;
    let negated = match text.first() {
        Some(Marked { byte: b'!', quoted: false }) => true,
        Some(Marked { byte: b'^', quoted: false }) => return None,
        _ => false,
    };
    if negated {
        at += 1;
    }
    let start = at;
    loop {
        let Some(marked) = text.get(at) else { return Some(None) };
        if marked.byte == b']' && !marked.quoted && at > start {
            break;
        }
        if marked.byte == b'[' && !marked.quoted {
            match text.get(at + 1).map(|next| next.byte) {
                Some(b'.' | b'=') => return None,
                Some(b':') => {
                    let rest: Vec<u8> = text[at + 2..].iter().map(|m| m.byte).collect();
                    let end = rest.windows(2).position(|pair| pair == b":]")?;
                    let class = class(&rest[..end])?;
                    for byte in 0..=255u8 {
                        fits[usize::from(byte)] |= class(&byte);
                    }
                    at += 2 + end + 2;
                    continue;
                }
                _ => {}
            }
        }
        let range = matches!(text.get(at + 1), Some(Marked { byte: b'-', quoted: false }))
            && text.get(at + 2).is_some_and(|end| end.byte != b']');
        if range {
            let end = text[at + 2].byte;
            // Ranges follow the locale, but for those of digits.
            if !marked.byte.is_ascii_digit() || !end.is_ascii_digit() {
                return None;
            }
            for byte in marked.byte..=end {
                fits[usize::from(byte)] = true;
            }
            at += 3;
        } else {
            fits[usize::from(marked.byte)] = true;
            at += 1;
        }
    }
    if negated {
        fits.iter_mut().for_each(|fit| *fit = !*fit);
    }
    Some(Some((fits, at + 1)))
}

fn class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alpha" => u8::is_ascii_alphabetic,
        b"digit" => u8::is_ascii_digit,
        b"alnum" => u8::is_ascii_alphanumeric,
        b"upper" => u8::is_ascii_uppercase,
        b"lower" => u8::is_ascii_lowercase,
        b"punct" => u8::is_ascii_punctuation,
        b"xdigit" => u8::is_ascii_hexdigit,
        b"blank" => |b| matches!(b, b' ' | b'\t'),
        b"space" => |b| matches!(b, b' ' | b'\t'..=b'\r'),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        let marked: Vec<Marked> = text.bytes().map(|byte| Marked { byte, quoted: false }).collect();
        Pattern::new(&marked).unwrap()
    }

    impl Pattern {
        fn matches(&self, text: &[u8]) -> bool {
            self.try_matches(text, &mut 1_000_000).unwrap()
        }
    }

    #[test]
    fn stars_go_back_only_as_far_as_they_must() {
        assert!(pattern("*a*b").matches(b"xxaxxb"));
        assert!(!pattern("*a*b").matches(b"xxaxxbc"));
        assert!(pattern("").matches(b""));
        assert!(pattern("**").matches(b""));
        assert!(!pattern("?").matches(b""));
        assert!(!pattern("*a".repeat(20).as_str()).matches("a".repeat(5000).replace('a', "ab").as_bytes()));
    }

    #[test]
    fn sets_have_ranges_classes_and_a_negation() {
        assert!(pattern("[1-3]").matches(b"2"));
        assert!(!pattern("[!abc]").matches(b"b"));
        assert!(pattern("[]x]").matches(b"]"));
        assert!(pattern("[a-]").matches(b"-"));
        assert!(pattern("[[:digit:]x]*").matches(b"9z"));
        assert!(pattern("[abc").matches(b"[abc"));
    }

    #[test]
    fn what_shells_disagree_on_is_left_to_them() {
        let marked = |text: &str| text.bytes().map(|byte| Marked { byte, quoted: false }).collect::<Vec<_>>();
        assert_eq!(Pattern::new(&marked("[^a]")), None);
        assert_eq!(Pattern::new(&marked("[a-c]")), None);
        assert_eq!(Pattern::new(&marked("[[.a.]]")), None);
    }

    #[test]
    fn matching_ends_when_its_steps_are_spent() {
        assert_eq!(pattern("*a*b").try_matches(&[b'a'; 1000], &mut 500), None);
    }
}
