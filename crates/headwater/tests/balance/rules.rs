//! What the calls of one request must look like.
//!
//! One letter per call: `C`reate, `R`einit, process `H`eader, input filter `I`nit, input filter (`D`ata), input `E`nd, `A`bort, `F`inalize.

/// Checks the calls of one request, with the number of attempts where it is certain, and whether it was aborted.
///
/// # Errors
/// What is wrong.
pub(crate) fn check(calls: &str, attempts: Option<usize>, aborted: bool) -> Result<(), &'static str> {
    let count = |letter: char| calls.matches(letter).count();
    let at = |letter: char| calls.find(letter);
    let body = calls.find(['D', 'E']);
    let rules = [
        (calls.starts_with('C') && count('C') == 1, "create_request is not first and once"),
        (calls.ends_with('F') && count('F') == 1, "finalize_request is not last and once"),
        (count('A') == usize::from(aborted), "abort_request is not called as it should be"),
        (!aborted || calls.ends_with("AF"), "abort_request does not stand before the end"),
        (
            attempts.is_none_or(|attempts| count('R') + 1 == attempts),
            "reinit_request does not match the attempts",
        ),
        (count('I') <= 1, "input_filter_init more than once"),
        (body.is_none() || at('I').is_some_and(|init| Some(init) < body), "a body before input_filter_init"),
        (at('I').is_none() || at('I') > calls.rfind(['H', 'R']), "a head after input_filter_init"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, text)) => Err(text),
        None => Ok(()),
    }
}
