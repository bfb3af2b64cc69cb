//! The example as a client sees it.

use std::path::Path;

use headwater_testkit::example::Example;

#[test]
fn page_is_made_of_the_answer_of_another_location() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = Example::start(Path::new(env!("CARGO_BIN_EXE_example-quote")), home, &[]).unwrap();
    let answer = example.get(8085, "/quote?sh000001").unwrap();
    assert!(answer.ends_with("\r\n\r\nstock[Composite], price now: 3094.668\n"), "{answer}");
    assert!(example.get(8085, "/quote?unknown").unwrap().starts_with("HTTP/1.1 404 "));
    assert!(example.get(8085, "/quote?empty").unwrap().starts_with("HTTP/1.1 502 "));
    assert!(example.get(8085, "/numbers?sh000001").unwrap().starts_with("HTTP/1.1 404 "), "it is internal");
}
