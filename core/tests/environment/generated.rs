//! Scripts put together by chance from pieces that shells read in surprising ways.

use std::path::Path;

use crate::{Expected, compare};

struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const NAMES: [&str; 9] = ["A", "B", "C", "FOO", "PATH", "HOME", "NEW", "LD_LIBRARY_PATH", "UNSET"];
const TEXT: [&str; 26] = [
    "a", "b c", "/x/y", ":", "*", "?", "[ab]", "~", "~/x", "\\$", "\\\\", "'q $A'", "\"\"", "''", "=", "#",
    "-", "x:~/y", "é", "{", "}", ",", "\\a", "!", "@", "%",
];
const OPERATORS: [&str; 12] = [":-", "-", ":=", "=", ":+", "+", "#", "##", "%", "%%", ":?", ""];

fn parameter(chance: &mut Chance, depth: usize) -> String {
    let name = chance.pick(&NAMES);
    match chance.below(8) {
        0..=2 => format!("${name}"),
        3 => format!("${{{name}}}"),
        4 => format!("${{#{name}}}"),
        _ => {
            let operator = chance.pick(&OPERATORS);
            let inner = if operator.is_empty() { String::new() } else { pieces(chance, depth + 1) };
            format!("${{{name}{operator}{inner}}}")
        }
    }
}

fn pieces(chance: &mut Chance, depth: usize) -> String {
    let mut out = String::new();
    for _ in 0..chance.below(4) {
        match chance.below(if depth > 2 { 4 } else { 7 }) {
            0..=3 => {
                let text = chance.pick(&TEXT);
                out.push_str(if text.contains(' ') && !text.contains('\'') { "b" } else { text });
            }
            4 => out.push_str(&parameter(chance, depth)),
            5 => out.push_str(&format!("\"{}\"", quoted(chance, depth + 1))),
            _ => out.push('$'),
        }
    }
    out
}

fn quoted(chance: &mut Chance, depth: usize) -> String {
    let mut out = String::new();
    for _ in 0..chance.below(4) {
        match chance.below(if depth > 2 { 3 } else { 5 }) {
            0..=2 => out.push_str(
                chance.pick(&["a", "b c", "*", "~", "'", "\\\"", "\\$", "\\x", "\\\\", ":", "[", "é", "  "]),
            ),
            _ => out.push_str(&parameter(chance, depth)),
        }
    }
    out
}

fn condition(chance: &mut Chance) -> String {
    let word = |chance: &mut Chance| pieces(chance, 1);
    match chance.below(7) {
        0 => format!("[ -n \"{}\" ]", quoted(chance, 1)),
        1 => format!("[ {} = {} ]", word(chance), word(chance)),
        2 => format!("test -z {}", word(chance)),
        3 => format!("[ -d @ROOT@/etc -a -f \"{}\" ]", quoted(chance, 1)),
        4 => format!("! [ {} ]", word(chance)),
        5 => format!("[ ${{#{}}} -gt {} ]", chance.pick(&NAMES), chance.below(9)),
        _ => chance.pick(&["true", "false", ":", "[ a != b ]"]).to_owned(),
    }
}

fn command(chance: &mut Chance, depth: usize) -> String {
    let name = chance.pick(&NAMES);
    match chance.below(if depth > 2 { 5 } else { 10 }) {
        0 | 1 => format!("export {name}={}", pieces(chance, 0)),
        2 => format!("{name}={}", pieces(chance, 0)),
        3 => format!("export {name}=\"{}\"", quoted(chance, 0)),
        4 => chance
            .pick(&["unset A", "export B", ": ${NEW:=x}", "unset -v C NEW", "export PATH", "unset UNSET"])
            .to_owned(),
        5 => format!(
            "if {}; then\n{}\nelse {}\nfi",
            condition(chance),
            command(chance, depth + 1),
            command(chance, depth + 1)
        ),
        6 => format!(
            "{} && {} || {}",
            condition(chance),
            command(chance, depth + 1),
            command(chance, depth + 1)
        ),
        7 => format!(
            "for NEW in {} {}; do\n{}\nexport LOOP=\"$LOOP<$NEW>\"\ndone",
            pieces(chance, 0),
            pieces(chance, 0),
            command(chance, depth + 1)
        ),
        8 => format!(
            "case {} in\n{}) {};;\n{}|x) {};;\n*) {};;\nesac",
            pieces(chance, 1),
            non_empty(chance),
            command(chance, depth + 1),
            non_empty(chance),
            command(chance, depth + 1),
            command(chance, depth + 1)
        ),
        _ => format!("{{ {}; }}", command(chance, depth + 1)),
    }
}

fn non_empty(chance: &mut Chance) -> String {
    let text = pieces(chance, 1);
    if text.is_empty() { "*".to_owned() } else { text }
}

pub fn compare_many(folder: &Path, numbers: std::ops::Range<u64>) {
    let mut wrong = Vec::new();
    for number in numbers {
        let mut chance = Chance((number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let lines: Vec<String> = (0..1 + chance.below(4)).map(|_| command(&mut chance, 0)).collect();
        wrong.extend(compare(
            folder,
            &format!("case {number}"),
            &(lines.join("\n") + "\n"),
            Expected::Either,
        ));
        if wrong.len() > 12 {
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
