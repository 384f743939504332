//! What people read on the terminal.

/// Prints one line.
#[expect(
    clippy::print_stdout,
    reason = "talking to people is what a chore does"
)]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
