//! Enough of Rust's lexical rules to look at code without its comments and strings, and to measure functions.

/// The text with comments, strings and character literals blanked out; line ends stay.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(bytes, at);
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts at `at` ends; `at` when there is none.
fn skip(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + find(rest, b"*/", 2),
        [b'"', ..] => at + quoted(rest, b'"'),
        [b'b' | b'c', b'"', ..] if !in_word => at + 1 + quoted(&rest[1..], b'"'),
        [b'b', b'\'', ..] if !in_word => at + 1 + quoted(&rest[1..], b'\''),
        [b'r', ..] | [b'b' | b'c', b'r', ..] if !in_word => at + raw(rest),
        [b'\'', b'\\', ..] => at + quoted(rest, b'\''),
        [b'\'', ..] => at + character(rest),
        _ => at,
    }
}

/// Length up to and with `end`.
fn find(rest: &[u8], end: &[u8], from: usize) -> usize {
    let found = rest[from.min(rest.len())..].windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |found| from + found + end.len())
}

/// Length of a literal with escapes, quotes included.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a raw string; 0 when it is something else, such as a name that starts with `r`.
fn raw(rest: &[u8]) -> usize {
    let start = if rest[0] == b'r' { 1 } else { 2 };
    let hashes = rest[start..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(start + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.extend(std::iter::repeat_n(b'#', hashes));
    find(rest, &end, start + hashes + 1)
}

/// Length of a character literal; 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    let text = String::from_utf8_lossy(&rest[1..rest.len().min(6)]).into_owned();
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), Some('\'')) => letter.len_utf8() + 2,
        _ => 0,
    }
}

/// A function: its name, the line it starts on (from 1) and its number of lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// The functions with bodies in text that [`code_only`] made.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        if let Some(count) = body_lines(&lines[index..]) {
            found.push(Function { name, line: index + 1, lines: count });
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.by_ref().find(|word| *word == "fn")?;
    let trimmed = line.trim_start();
    let starts = ["fn ", "pub", "async ", "const ", "unsafe ", "extern "];
    starts.iter().any(|start| trimmed.starts_with(start)).then(|| words.next().map(str::to_owned))?
}

fn body_lines(lines: &[&str]) -> Option<usize> {
    let (mut depth, mut brackets, mut opened) = (0_usize, 0_usize, false);
    for (index, line) in lines.iter().enumerate() {
        for byte in line.bytes() {
            match byte {
                b'(' | b'[' => brackets += 1,
                b')' | b']' => brackets = brackets.saturating_sub(1),
                b'{' => (depth, opened) = (depth + 1, true),
                b'}' => depth = depth.saturating_sub(1),
                b';' if !opened && brackets == 0 => return None,
                _ => {}
            }
            if opened && depth == 0 {
                return Some(index + 1);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let code = code_only("a /* x */ \"un\\\"safe\" 'x' b'\\'' r#\"raw\"# 'life b");
        assert!(code.starts_with('a') && code.ends_with("'life b"), "{code}");
        assert!(!code.contains('x') && !code.contains("safe") && !code.contains("raw"), "{code}");
        assert_eq!(code_only("for r in x // end"), "for r in x       ");
    }

    #[test]
    fn functions_are_measured() {
        let found = functions("trait T {\n fn a();\n}\npub fn b(x: [u8; 2])\n{\n  {}\n}\n");
        assert_eq!(found, [Function { name: "b".into(), line: 4, lines: 4 }]);
    }
}
