//! Taking out of a sentence what must not leave the house.

use std::net::{IpAddr, SocketAddr};

/// Longer messages are cut: phones show less.
const LONGEST: usize = 600;
/// Words before a `=` or `:` whose value is nobody's business.
const PRIVATE: [&str; 19] = [
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "credential",
    "credentials",
    "apikey",
    "api_key",
    "access_key",
    "secret_key",
    "user",
    "host",
    "hostaddr",
    "dbname",
    "passfile",
    "sslkey",
    "signature",
    "authorization",
];

/// The text without addresses, connection strings and secrets, in one line and of bounded length.
///
/// Messages of alerts hold words of servers and object stores. Nobody knows all that these say, so everything of the form
/// `scheme://...` goes whole, as does the value of every `password=`, `host=` and the like, every IP address and every
/// `host:port`. The name of a host alone cannot be told from another word, and stays.
#[must_use]
pub fn scrub(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    // Quoted values may hold spaces: everything up to the closing quote belongs to them.
    let mut open_quote: Option<char> = None;
    for word in text.split_whitespace() {
        if let Some(quote) = open_quote {
            if let Some((_, after)) = word.split_once(quote) {
                open_quote = None;
                if let (Some(last), false) = (words.last_mut(), after.is_empty()) {
                    last.push_str(&scrub_word(after));
                }
            }
            continue;
        }
        words.push(scrub_word(word));
        open_quote = opened_by(word);
    }
    cut(&words.join(" "))
}

/// The quote that a private value begins with and does not end in this word.
fn opened_by(word: &str) -> Option<char> {
    let value = private_value(word)?;
    let quote = value.chars().next().filter(|c| "'\"".contains(*c))?;
    (!value[1..].contains(quote)).then_some(quote)
}

/// What stands behind `password=` and the like.
fn private_value(word: &str) -> Option<&str> {
    let at = word.find(['=', ':'])?;
    let name = word[..at].trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let name = name
        .rsplit(['?', '&', ';', ','])
        .next()
        .unwrap_or(name)
        .to_lowercase();
    let private = PRIVATE.contains(&name.as_str())
        || ["password", "secret", "token"]
            .iter()
            .any(|part| name.contains(part));
    let value = &word[at + 1..];
    (private && !value.is_empty()).then_some(value)
}

fn scrub_word(word: &str) -> String {
    if let Some(at) = word.find("://") {
        let scheme = &word[..at];
        let begin = scheme
            .rfind(|c: char| !c.is_ascii_alphanumeric() && c != '+')
            .map_or(0, |i| i + 1);
        let tail: String = word
            .chars()
            .rev()
            .take_while(|c| ",.;:)'\"".contains(*c))
            .collect();
        let tail: String = tail.chars().rev().collect();
        return format!("{}{}://***{tail}", &word[..begin], &scheme[begin..]);
    }
    if let Some(value) = private_value(word) {
        let kept = word.len() - value.len();
        return format!("{}***", &word[..kept]);
    }
    // user:secret@host without a scheme.
    match word.split_once('@') {
        Some((before, _)) if before.contains(':') => "***".to_owned(),
        _ => scrub_address(word),
    }
}

/// An IP address, or a host with a port, in the word's punctuation.
fn scrub_address(word: &str) -> String {
    let around = |c: char| "()<>\"'`,.;:!?".contains(c);
    let core = word.trim_matches(around);
    // An IPv6 address may begin and end with colons.
    let wide = word.trim_matches(|c: char| around(c) && c != ':');
    for part in [wide, core] {
        if is_address(part) {
            return word.replacen(part, "***", 1);
        }
    }
    word.to_owned()
}

fn is_address(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare.len() < text.len() && bare.parse::<IpAddr>().is_ok() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let named = host.contains('.') || host == "localhost";
    let host_like = host
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    // A word with a number behind it is a host if the number is one that a server listens on.
    let port: Option<u16> = port.parse().ok();
    host_like
        && host.starts_with(|c: char| c.is_ascii_alphabetic())
        && port.is_some_and(|port| named || port >= 1024)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, scrub};

    #[test]
    fn addresses_and_secrets_go_and_the_rest_stays() {
        for (text, left) in [
            (
                "the object store did not answer",
                "the object store did not answer",
            ),
            (
                "failed: postgres://z:geheim@db:5432/x?a=1, so there",
                "failed: postgres://***, so there",
            ),
            ("(https://hooks/T0/B0/secret)", "(https://***)"),
            (
                "cannot use host=db user=z password='ge heim' port=5432",
                "cannot use host=*** user=*** password=*** port=5432",
            ),
            ("password=\"a b\" c", "password=*** c"),
            ("sent Token:abc and z:geheim@db", "sent Token:*** and ***"),
            (
                "aws_secret_access_key=AKIA/x+y=",
                "aws_secret_access_key=***",
            ),
            (
                "user \"zektor\" may not replicate",
                "user \"zektor\" may not replicate",
            ),
            ("two\nlines", "two lines"),
            (
                "at 0/3000060: invalid record",
                "at 0/3000060: invalid record",
            ),
            ("mail to a@b.example", "mail to a@b.example"),
            (
                "cannot connect to 127.0.0.1:49183: refused",
                "cannot connect to ***: refused",
            ),
            ("(10.0.0.7), [::1]:5432 and fe80::1", "(***), *** and ***"),
            ("db.internal:80, localhost:443; db:5432.", "***, ***; ***."),
            (
                "at 12:30:05 in base/5/16384:7, block:7, 18.1",
                "at 12:30:05 in base/5/16384:7, block:7, 18.1",
            ),
        ] {
            assert_eq!(scrub(text), left);
        }
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let cut = scrub(&"ä".repeat(5000));
        assert_eq!(cut.chars().count(), LONGEST + 1);
    }
}
