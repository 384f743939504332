//! Runs a program to its end and keeps what it printed for the error message.

use std::process::{Command, Stdio};

use crate::InstallError;

/// How many of the last output lines an error shows.
const SHOWN_LINES: usize = 8;

/// Runs `command` with no input and returns what it wrote to stdout.
pub(crate) fn run(command: &mut Command) -> Result<String, InstallError> {
    let line = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| InstallError::Start {
            command: line.clone(),
            source,
        })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let both = format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    Err(InstallError::Failed {
        command: line,
        status: output.status.to_string(),
        output: last_lines(&both),
    })
}

/// Whether `command` can be started and ends with success; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    run(command).is_ok()
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_printed() {
        let error = run(Command::new("sh").args(["-c", "echo said; echo why >&2; exit 3"]));
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("sh -c") && text.contains("said; why") && text.contains('3'),
            "{text}"
        );
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let text = run(&mut Command::new("no-such-program-here"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("no-such-program-here"), "{text}");
    }
}
