//! What of the source's settings a branch takes over: how values are shown and parsed, and libraries that its
//! data may need. Nothing that archives, connects, replicates or schedules.

use std::path::Path;

/// Settings without effect outside of the branch.
const HARMLESS: &[&str] = &[
    "timezone",
    "datestyle",
    "intervalstyle",
    "default_text_search_config",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
];

/// Libraries that act only within the branch, and replay of what it may hold needs the later ones: they bring
/// resource managers of their own (<https://wiki.postgresql.org/wiki/CustomWALResourceManagers>). Others may connect,
/// schedule, replicate or send: a branch must not act as its source.
const PASSIVE_LIBRARIES: &[&str] = &[
    "pg_stat_statements",
    "auto_explain",
    "auth_delay",
    "passwordcheck",
    "pg_prewarm",
    "pgaudit",
    "pg_hint_plan",
    "pg_tde",
    "neon_rmgr",
    "orioledb",
];

/// Reads names and values of a `postgresql.conf`; later ones win. `include` directives are not followed.
#[must_use]
pub fn parse(text: &str) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some((name, value)) = parse_line(line) {
            settings.retain(|(known, _)| *known != name);
            settings.push((name, value));
        }
    }
    settings
}

/// `name = value`, `name value`, `name = 'it''s'  # comment`.
fn parse_line(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = rest
                .find(|c: char| c == '#' || c.is_whitespace())
                .unwrap_or(rest.len());
            rest[..end].to_owned()
        }
    };
    Some((name.to_ascii_lowercase(), value))
}

fn unquote(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = text.chars().peekable();
    loop {
        match chars.next()? {
            '\'' if chars.peek() == Some(&'\'') => {
                let _ = chars.next();
                value.push('\'');
            }
            '\'' => return Some(value),
            '\\' => value.push(chars.next()?),
            other => value.push(other),
        }
    }
}

/// What is carried over, given the source's settings and a way to tell whether a library is installed; and the
/// libraries that the source preloads and the branch does not.
#[must_use]
pub fn select(
    settings: &[(String, String)],
    library_exists: impl Fn(&str) -> bool,
) -> (Vec<(String, String)>, Vec<String>) {
    let mut carried: Vec<(String, String)> = settings
        .iter()
        .filter(|(name, _)| HARMLESS.contains(&name.as_str()))
        .cloned()
        .collect();
    let preload = settings
        .iter()
        .find(|(name, _)| name == "shared_preload_libraries");
    let mut not_preloaded = Vec::new();
    if let Some((name, value)) = preload {
        let named = value
            .split(',')
            .map(|library| library.trim().trim_matches('"'))
            .filter(|library| !library.is_empty());
        let (libraries, left): (Vec<&str>, Vec<&str>) =
            named.partition(|library| is_passive(library) && library_exists(library));
        if !left.is_empty() {
            tracing::warn!(
                libraries = left.join(","),
                "libraries that the source preloads are not preloaded in the branch"
            );
        }
        if !libraries.is_empty() {
            carried.push((name.clone(), libraries.join(",")));
        }
        not_preloaded.extend(left.into_iter().map(str::to_owned));
    }
    (carried, not_preloaded)
}

fn is_passive(library: &str) -> bool {
    let name = library.strip_prefix("$libdir/").unwrap_or(library);
    PASSIVE_LIBRARIES.contains(&name.strip_suffix(".so").unwrap_or(name))
}

/// Whether an installation has a library: in the folders where packages put them, seen from `bin`.
#[must_use]
pub fn library_exists(bin: &Path, library: &str) -> bool {
    let name = library.strip_prefix("$libdir/").unwrap_or(library);
    if name.starts_with('/') {
        return Path::new(name).is_file() || Path::new(&format!("{name}.so")).is_file();
    }
    let plain = name.strip_prefix("plugins/").unwrap_or(name);
    if plain.contains('/') || plain.contains("..") {
        return false;
    }
    let file = format!("{}.so", name.strip_suffix(".so").unwrap_or(name));
    let folders = [
        "../lib",
        "../lib/postgresql",
        "../lib/x86_64-linux-gnu/postgresql",
    ];
    folders
        .iter()
        .any(|folder| bin.join(folder).join(&file).is_file())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::{parse, select};

    const SOURCE: &str = "\
# comment
listen_addresses = '*'
TimeZone = 'Europe/Berlin'   # where we are
datestyle='iso, dmy'
lc_time de_DE.UTF-8
archive_command = 'cp %p /archive/%f'
shared_preload_libraries = 'pg_stat_statements, pg_cron, timescaledb, pg_hint_plan, $libdir/pgaudit'
include_if_exists 'more.conf'
default_text_search_config = 'it''s'
";

    #[test]
    fn carries_only_what_is_harmless() {
        let settings = parse(SOURCE);
        let (carried, left) = select(&settings, |library| library != "pg_hint_plan");
        assert_eq!(left, ["pg_cron", "timescaledb", "pg_hint_plan"]);
        let text: Vec<String> = carried
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            text,
            [
                "timezone=Europe/Berlin",
                "datestyle=iso, dmy",
                "lc_time=de_DE.UTF-8",
                "default_text_search_config=it's",
                "shared_preload_libraries=pg_stat_statements,$libdir/pgaudit",
            ]
        );
    }

    #[test]
    fn the_last_value_counts() {
        assert_eq!(parse("a = 1\nA = 2\n"), [("a".to_owned(), "2".to_owned())]);
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = select(&parse(&text), |_| true);
        }
    }
}
