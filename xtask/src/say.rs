//! What people read on the terminal.

/// Prints one line.
#[expect(
    clippy::print_stdout,
    reason = "talking to people is what a chore does"
)]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Prints one line about what is wrong.
#[expect(
    clippy::print_stderr,
    reason = "talking to people is what a chore does"
)]
pub(crate) fn complain(line: &str) {
    eprintln!("{line}");
}
