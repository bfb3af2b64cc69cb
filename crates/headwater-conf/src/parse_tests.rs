//! Tests of the lexer and the parser together: `check` renders a tree on one line.

use super::*;

fn render(block: &Block, out: &mut String) {
    for item in &block.items {
        out.push_str(&item.name());
        for arg in &item.args {
            out.push_str(&format!(" <{}>", arg.str()));
        }
        match &item.block {
            Some(inner) => {
                out.push_str(" {");
                render(inner, out);
                out.push('}');
            }
            None => out.push(';'),
        }
    }
    if let Some(error) = &block.error {
        out.push_str(&format!("!{}@{}", error.message, error.position.map_or(0, |p| p.1)));
    }
}

#[track_caller]
fn check(input: &str, expect: &str) {
    let mut out = String::new();
    render(&parse(0, input.as_bytes()), &mut out);
    assert_eq!(out, expect, "input: {input:?}");
}

#[test]
fn words_quotes_and_escapes_are_resolved() {
    check("a b c;", "a <b> <c>;");
    check("a \"b c\" 'd;e';", "a <b c> <d;e>;");
    check("a \\\"x\\ y \"q\\\"r\\n\";", "a <\"x\\ y> <q\"r\n>;");
    check("a # comment ; {\n b#c;", "a <b#c>;");
    check("log ${a}b{c;}", "log <${a}b> {c;}");
    check("r ^/(a|b){2}$;", "r <^/(a|b)> {2}$;!unexpected end of file, expecting \"}\"@1}");
    check("if (\"a\") {}", "if <(\"a\")> {}");
    check("x \"a\")b;", "x <a> <)b>;");
}

#[test]
fn blocks_nest_and_lines_are_those_of_the_terminator() {
    check("a { b { c 1; } d; }", "a {b {c <1>;}d;}");
    let tree = parse(0, b"a\n b\n ;\n c {\n}\n");
    let lines: Vec<u32> = tree.items.iter().map(|item| item.line).collect();
    assert_eq!(lines, [3, 4]);
}

#[test]
fn errors_carry_nginx_text_and_line() {
    check("a;\n}", "a;!unexpected \"}\"@2");
    check("a {\n b;", "a {b;!unexpected end of file, expecting \"}\"@2}");
    check("a b", "!unexpected end of file, expecting \";\" or \"}\"@1");
    check("a b }", "!unexpected \"}\"@1");
    check("\n;", "!unexpected \";\"@2");
    check("a \"b\"c;", "!unexpected \"c\"@1");
    check("a 'b", "!unexpected end of file, expecting \";\" or \"}\"@1");
    let long = format!("a\n{};", "x".repeat(5000));
    check(&long, "!too long parameter \"xxxxxxxxxx...\" started@2");
}
