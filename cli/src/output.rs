//! What a command says: one document for programs, a text for people. Nothing else reaches stdout.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use events::Timestamp;
use serde::Serialize;

use crate::failure::{Ending, Failure};

/// How a command says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    Table,
    /// One JSON document
    Json,
}

/// What a command says when it has done its work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    /// JSON; empty if there is nothing to say.
    pub(crate) document: String,
    pub(crate) text: String,
    /// Of a command whose work is to find out what is wrong.
    pub(crate) failure: Option<Failure>,
}

impl Reply {
    pub(crate) fn new(
        document: &impl Serialize,
        text: impl Into<String>,
    ) -> Result<Reply, Failure> {
        // Not by way of a `Value`, which would lose the order of the fields.
        let document = serde_json::to_string_pretty(document)
            .map_err(|error| Failure::local("the answer cannot be written as json", &error))?;
        Ok(Reply {
            document,
            text: text.into(),
            failure: None,
        })
    }

    /// For commands that have written everything themselves.
    pub(crate) fn nothing() -> Reply {
        Reply {
            document: String::new(),
            text: String::new(),
            failure: None,
        }
    }

    fn print(&self, format: OutputFormat) -> io::Result<()> {
        let said = match format {
            OutputFormat::Json => self.json(),
            OutputFormat::Table => self.text.trim_end().to_owned(),
        };
        match said.as_str() {
            "" => Ok(()),
            said => write_out(&format!("{said}\n")).map(drop),
        }
    }

    /// The one document: of a command that failed with an answer, the answer with the error in it.
    pub(crate) fn json(&self) -> String {
        match &self.failure {
            None => self.document.clone(),
            Some(failure) => with_error(&self.document, failure),
        }
    }
}

/// A document of [`Reply::new`] with the error as its last field, instead of one of that name. Of a command that has
/// written its lines itself it is one more line.
fn with_error(document: &str, failure: &Failure) -> String {
    let error = serde_json::json!({ "error": failure.to_json() });
    if document.is_empty() {
        return error.to_string();
    }
    let error = format!("{error:#}");
    // Its own fields keep their order, which a `Value` would lose: the lines of a field begin with more than two
    // blanks, but for the first one and a bracket.
    let Some(fields) = document
        .strip_prefix("{\n")
        .and_then(|d| d.strip_suffix("\n}"))
    else {
        return error;
    };
    let mut own = String::new();
    let mut replaced = false;
    for line in fields.lines() {
        if line.starts_with("  \"") {
            replaced = line.starts_with("  \"error\":");
        }
        if !replaced {
            own.push_str(line);
            own.push('\n');
        }
    }
    let own = own.trim_end().trim_end_matches(',');
    match own {
        "" => error,
        own => format!("{{\n{own},\n{}", error.trim_start_matches("{\n")),
    }
}

/// Says how a command ended, and gives its exit code.
pub(crate) fn conclude(outcome: Result<Reply, Failure>, format: OutputFormat) -> u8 {
    let (printed, failure) = match outcome {
        Ok(reply) => (reply.print(format), reply.failure),
        Err(failure) => {
            let document = serde_json::json!({ "error": failure.to_json() });
            let printed = match format {
                OutputFormat::Json => write_out(&format!("{document:#}\n")).map(drop),
                OutputFormat::Table => Ok(()),
            };
            (printed, Some(failure))
        }
    };
    if let Some(failure) = &failure {
        note(failure.to_text().trim_end());
    }
    match (failure, printed) {
        (Some(failure), _) => failure.ending as u8,
        (None, Ok(())) => 0,
        (None, Err(error)) => {
            note(&format!(
                "error: the answer cannot be written to stdout: {error}"
            ));
            Ending::Failed as u8
        }
    }
}

/// Whether anybody reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    There,
    /// It was closed; whoever did has heard enough, and that is no failure.
    Gone,
}

/// Writes to stdout.
pub(crate) fn write_out(text: &str) -> io::Result<Reader> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        written => written.map(|()| Reader::There),
    }
}

/// A line for people, on stderr.
pub(crate) fn note(line: &str) {
    // Nothing is left to be done if stderr is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A table without lines; columns as wide as they must be.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    let _ = table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        let _ = table.add_row(row);
    }
    trimmed(table)
}

/// Names and values, one pair a line; pairs without a value are left out.
pub(crate) fn pairs(pairs: &[(&str, Option<String>)]) -> String {
    let mut table = Table::new();
    let _ = table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    for (name, value) in pairs {
        if let Some(value) = value {
            let _ = table.add_row(vec![(*name).to_owned(), value.clone()]);
        }
    }
    trimmed(table)
}

fn trimmed(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        let _ = column.set_padding((0, 2));
    }
    table
        .to_string()
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// What stands in a table where nothing is known.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A size for people: `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded up to 1024 belongs to the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A moment for people, to the second, in UTC.
pub(crate) fn moment(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The same for tables, whose header says that it is in UTC.
pub(crate) fn second(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A moment for narrow tables, whose header says that it is in UTC.
pub(crate) fn minute(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M").to_string()
}

/// A moment of the days to come for narrow tables, in UTC.
pub(crate) fn day_minute(at: Timestamp) -> String {
    at.format("%m-%d %H:%M").to_string()
}

/// A day for narrow tables, in UTC.
pub(crate) fn day(at: Timestamp) -> String {
    at.format("%Y-%m-%d").to_string()
}

/// How much room there is for what can be of any length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Lines are to fit a terminal.
    Terminal,
    /// A file or a program reads it, and nothing is left out.
    Unlimited,
}

impl Room {
    /// Where stdout goes.
    pub(crate) fn of_stdout() -> Room {
        match io::stdout().is_terminal() {
            true => Room::Terminal,
            false => Room::Unlimited,
        }
    }

    /// At most so many characters on a terminal.
    pub(crate) fn cut(self, text: &str, most: usize) -> String {
        match self {
            Room::Terminal => shortened(text, most),
            Room::Unlimited => text.to_owned(),
        }
    }

    /// Names for one column of a terminal, as short as `width` or as they can still be told apart: the end is left out,
    /// or, of those that begin with the same words, the middle.
    pub(crate) fn apart(self, names: &[&str], width: usize) -> Vec<String> {
        let whole = || names.iter().map(|&name| name.to_owned()).collect();
        if self == Room::Unlimited {
            return whole();
        }
        let different: BTreeSet<&str> = names.iter().copied().collect();
        let longest = different.iter().map(|name| name.chars().count()).max();
        for width in width..longest.unwrap_or(0) {
            for short in [shortened, without_middle] {
                let short = |name: &&str| short(name, width);
                let told_apart: BTreeSet<String> = different.iter().map(short).collect();
                if told_apart.len() == different.len() {
                    return names.iter().map(short).collect();
                }
            }
        }
        whole()
    }
}

fn without_middle(text: &str, most: usize) -> String {
    let all: Vec<char> = text.chars().collect();
    if all.len() <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(1);
    let (head, tail) = (kept.div_ceil(2), kept / 2);
    let begin = all.iter().take(head);
    let end = all.iter().skip(all.len() - tail);
    begin.chain(&['\u{2026}']).chain(end).collect()
}

/// At most so many characters, the last one a sign that some are missing.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept = text.chars().take(most.saturating_sub(1));
    kept.chain(['\u{2026}']).collect()
}

/// A moment that can be given to `--time`.
pub(crate) fn exact(at: Timestamp) -> String {
    events::envelope::rfc3339(at)
}

/// A duration for people: `850 ms`, `12.3 s`, `2 min 5 s`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::{Reply, Room, moment, pairs, size, span, table};
    use crate::failure::{Ending, Failure};

    #[test]
    fn a_failed_answer_has_the_error_in_it() {
        #[derive(serde::Serialize)]
        struct Answer<E> {
            b: Vec<&'static str>,
            error: E,
            a: u8,
        }
        let failure = Failure::new(Ending::Failed, "wal", "it failed: \"x\"", "look");
        let told = |reply: Reply| Reply {
            failure: Some(failure.clone()),
            ..reply
        };
        let b = || vec!["  \"error\": 1,", "x"];
        let expected = r#"{
  "b": [
    "  \"error\": 1,",
    "x"
  ],
  "a": 1,
  "error": {
    "code": "wal",
    "hint": "look",
    "message": "it failed: \"x\""
  }
}"#;
        let text = Answer {
            b: b(),
            error: "broken",
            a: 1,
        };
        assert_eq!(told(Reply::new(&text, "").unwrap()).json(), expected);
        let list = Answer {
            b: b(),
            error: vec![b()],
            a: 1,
        };
        assert_eq!(told(Reply::new(&list, "").unwrap()).json(), expected);
        let good = Reply::new(&text, "").unwrap();
        assert_eq!(good.json(), good.document);
        let empty = told(Reply::new(&serde_json::json!({}), "").unwrap()).json();
        let line = told(Reply::nothing()).json();
        assert_eq!(line.lines().count(), 1);
        for document in [line, empty] {
            let document: serde_json::Value = serde_json::from_str(&document).unwrap();
            assert_eq!(document["error"]["code"], "wal");
        }
    }

    #[test]
    fn sizes_moments_and_spans_are_for_people() {
        let sizes = [0, 1023, 1024, 1_048_575, 1_610_612_736, u64::MAX].map(size);
        assert_eq!(
            sizes,
            [
                "0 B",
                "1023 B",
                "1.0 KiB",
                "1.0 MiB",
                "1.5 GiB",
                "16384.0 PiB"
            ]
        );
        let at = "2026-03-01T12:00:00.5+02:00".parse().unwrap();
        assert_eq!(moment(at), "2026-03-01 10:00:00 UTC");
        let spans = [850, 12_340, 125_000, 7_260_000].map(|ms| span(Duration::from_millis(ms)));
        assert_eq!(spans, ["850 ms", "12.3 s", "2 min 5 s", "2 h 1 min"]);
    }

    #[test]
    fn names_are_as_short_as_they_can_be_told_apart() {
        let names = [
            "first backup of rescue",
            "first backup of other",
            "nightly",
            "nightly",
            "minutely 2026-11-23T02:50:00.000001Z",
            "minutely 2026-11-23T02:51:00.000001Z",
        ];
        assert_eq!(Room::Unlimited.apart(&names, 17), names);
        let short = Room::Terminal.apart(&names, 17);
        assert_eq!(short[2], "nightly");
        let different: BTreeSet<&String> = short.iter().collect();
        assert_eq!(different.len(), 5, "{short:?}");
        assert!(
            short.iter().all(|name| name.chars().count() <= 30),
            "{short:?}"
        );
        assert_eq!(
            Room::Terminal.apart(&names[..2], 17),
            ["first ba\u{2026}f rescue", "first ba\u{2026}of other"]
        );
        assert_eq!(Room::Terminal.cut("because of it", 8), "because\u{2026}");
        assert_eq!(Room::Unlimited.cut("because of it", 8), "because of it");
        assert!(Room::Terminal.apart(&[], 17).is_empty());
    }

    #[test]
    fn tables_are_plain() {
        let rows = vec![
            vec!["orders".to_owned(), "3".to_owned()],
            vec!["a".to_owned(), "".to_owned()],
        ];
        insta::assert_snapshot!(table(&["name", "branches"], rows), @r"
        NAME    BRANCHES
        orders  3
        a
        ");
        insta::assert_snapshot!(pairs(&[("name", Some("orders".to_owned())), ("error", None)]), @"name  orders");
    }
}
