//! What the runscript of a converted OCI image executes, for images that have no shell to run it.
//!
//! Such a runscript, soliton's as well as its peers', begins with the entry point and the command, as words for a shell in two
//! variables. It evaluates them together with the caller's words and executes the result.

use super::evaluate::{Interpreter, Step};
use super::parser;
use super::syntax::Command;
use crate::text::Text;

/// Entry point and command as a runscript says them. `None`: it is none of this kind.
fn stored(script: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let interpreter = script.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?.trim_ascii();
    if interpreter != b"/bin/sh" {
        return None;
    }
    let list = parser::parse(script).ok()?;
    let (mut entry_point, mut command) = (None, None);
    let mut shell = Interpreter::new([]).ok()?;
    for chain in &list {
        let Command::Simple { assignments, arguments, line, .. } = &chain.first else { continue };
        let ([assignment], []) = (assignments.as_slice(), arguments.as_slice()) else { continue };
        let place = match assignment.name.as_slice() {
            b"OCI_ENTRYPOINT" => &mut entry_point,
            b"OCI_CMD" => &mut command,
            _ => continue,
        };
        if place.is_none() {
            *place = Some(shell.value(&assignment.value, *line).ok()?);
        }
    }
    Some((entry_point?, command?))
}

/// The words to execute. `None`: the script is not that of a converted OCI image.
///
/// evaluate: the caller's words go through the shell's expansions, as the script would have it.
pub fn words(
    script: &[u8],
    arguments: &[Text],
    environment: &[(Text, Text)],
    evaluate: bool,
) -> Option<Step<Vec<Text>>> {
    let (entry_point, command) = stored(script)?;
    Some(evaluated(entry_point, &command, arguments, environment, evaluate))
}

fn evaluated(
    mut text: Vec<u8>,
    command: &[u8],
    arguments: &[Text],
    environment: &[(Text, Text)],
    evaluate: bool,
) -> Step<Vec<Text>> {
    let mut shell =
        Interpreter::new(environment.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())))?;
    shell.knows_arguments = false;
    text.push(b' ');
    if arguments.is_empty() {
        text.extend_from_slice(command);
    }
    for argument in arguments.iter().filter(|_| evaluate) {
        text.extend_from_slice(b" \"");
        text.extend_from_slice(argument.as_bytes());
        text.push(b'"');
    }
    let mut fields = Vec::new();
    for word in parser::parse_words(&text)? {
        shell.fields(&word, 1, &mut fields)?;
    }
    let mut words: Vec<Text> = fields.into_iter().map(Text::new).collect();
    words.extend(arguments.iter().filter(|_| !evaluate).cloned());
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &[u8] = b"#!/bin/sh\nOCI_ENTRYPOINT='\"/bin/tool\" \"--say=it'\"'\"'s \\$HOME\"'\nOCI_CMD='\"a b\"'\n\nexec \"$@\"\n";

    fn run(arguments: &[&str], evaluate: bool) -> Option<Vec<String>> {
        let arguments: Vec<Text> = arguments.iter().map(|&word| Text::from(word)).collect();
        let environment = [(Text::from("HOME"), Text::from("/home/a b"))];
        let words = words(SCRIPT, &arguments, &environment, evaluate).unwrap().ok()?;
        Some(words.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_callers_words_replace_the_command() {
        assert_eq!(run(&[], true).unwrap(), ["/bin/tool", "--say=it's $HOME", "a b"]);
        assert_eq!(run(&["x"], true).unwrap(), ["/bin/tool", "--say=it's $HOME", "x"]);
    }

    #[test]
    fn the_callers_words_are_evaluated_unless_that_is_not_wanted() {
        assert_eq!(run(&["$HOME/c"], true).unwrap()[2], "/home/a b/c");
        assert_eq!(run(&["$HOME/c"], false).unwrap()[2], "$HOME/c");
        assert_eq!(run(&["$(id)"], true), None);
        assert_eq!(run(&["$1"], true), None);
        assert_eq!(run(&["$@"], true), None);
        assert_eq!(run(&["\"; id; \""], true), None);
        assert_eq!(run(&["$(id)"], false).unwrap()[2], "$(id)");
    }

    #[test]
    fn other_scripts_are_not_guessed_at() {
        for script in [
            &b"#!/bin/sh\necho hello\n"[..],
            b"#!/bin/bash\nOCI_ENTRYPOINT=a\nOCI_CMD=b\n",
            b"OCI_ENTRYPOINT=a\nOCI_CMD=b\n",
            b"#!/bin/sh\nOCI_ENTRYPOINT=$(id)\nOCI_CMD=b\n",
            b"#!/bin/sh\nOCI_ENTRYPOINT='a\n",
        ] {
            assert!(words(script, &[], &[], true).is_none());
        }
    }
}
