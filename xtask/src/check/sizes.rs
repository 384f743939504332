//! A file fits one sitting. Files that do not fail the check; long functions are only shown.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::say::{complain, say};
use crate::workspace;

/// The most lines a file may have.
const FILE_LINES: usize = 500;
/// More lines than this make a function worth a second look.
const FUNCTION_LINES: usize = 70;
/// Where our sources are.
const FOLDERS: &[&str] = &["crates", "services", "cli", "xtask", "tests", "bench"];

/// A function that is longer than it should be.
#[derive(Debug, PartialEq, Eq)]
struct Long {
    name: String,
    line: usize,
    lines: usize,
}

/// Fails on files that are too long.
pub(super) fn check() -> Result<()> {
    let root = workspace::root()?;
    let files = sources(&root)?;
    let mut too_long = 0;
    let mut longest = 0;
    for file in &files {
        let text = fs::read_to_string(file)?;
        let name = file.strip_prefix(&root).unwrap_or(file).display();
        let lines = text.lines().count();
        longest = longest.max(lines);
        if lines > FILE_LINES {
            complain(&format!("  {name}: {lines} lines, at most {FILE_LINES}"));
            too_long += 1;
        }
        for long in long_functions(&text) {
            let Long {
                name: function,
                line,
                lines,
            } = long;
            say(&format!("  {name}:{line}: `{function}` has {lines} lines"));
        }
    }
    if too_long > 0 {
        bail!("{too_long} files are too long; divide them by what they are about");
    }
    say(&format!(
        "sizes      ok: {} files, the longest has {longest} lines",
        files.len()
    ));
    Ok(())
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<_> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        // `bench` need not exist.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Reads formatted code: a function ends at the brace that stands under its first line.
fn long_functions(text: &str) -> Vec<Long> {
    let mut found = Vec::new();
    let lines: Vec<_> = text.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let end = format!("{}}}", &line[..indent]);
        let length = lines[start..]
            .iter()
            .position(|line| *line == end)
            .map_or(0, |end| end + 1);
        if length > FUNCTION_LINES {
            found.push(Long {
                name: name.to_owned(),
                line: start + 1,
                lines: length,
            });
        }
    }
    found
}

/// The name of the function whose signature begins on this line, if its body is not on the same line.
fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let only_keywords = before.split_whitespace().all(|word| {
        word.starts_with("pub") || matches!(word, "async" | "const" | "crate)" | "super)" | "in")
    });
    let one_line = line.trim_end().ends_with(['}', ';']);
    (only_keywords && !one_line).then(|| after.split(['(', '<']).next().unwrap_or(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_are_found_with_name_place_and_length() {
        let body = "        work();\n".repeat(FUNCTION_LINES);
        let text = format!(
            "impl X {{\n    fn short() {{ 1 }}\n    pub(crate) async fn long<T>(t: T) {{\n{body}    }}\n}}\n"
        );
        let long = Long {
            name: "long".to_owned(),
            line: 3,
            lines: FUNCTION_LINES + 2,
        };
        assert_eq!(long_functions(&text), [long]);
        let short = format!(
            "fn fits() {{\n{}}}\n",
            "    work();\n".repeat(FUNCTION_LINES - 2)
        );
        assert_eq!(long_functions(&short), []);
    }

    #[test]
    fn only_definitions_count() {
        assert_eq!(
            function_name("    pub(super) const fn a(x: u8) -> u8 {"),
            Some("a")
        );
        assert_eq!(function_name("    let f: fn (u8) = b; // fn x() {"), None);
        assert_eq!(function_name("    /// the fn main() {"), None);
        assert_eq!(function_name("    fn required(&self);"), None);
    }
}
