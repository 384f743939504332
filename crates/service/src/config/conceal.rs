//! Hiding secrets in what is shown of the configuration.

use serde_json::{Map, Value};

/// What stands in the place of a secret.
const HIDDEN: &str = "***";
/// A key or query parameter whose name contains one of these holds a secret.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "credential"];

/// A URL (or several, separated by commas) without the password, or without the user part where it is
/// nothing but a token, and without secret query parameters. Other text is returned as it is.
#[must_use]
pub fn conceal_url(text: &str) -> String {
    let parts: Vec<String> = text.split(',').map(conceal_one).collect();
    parts.join(",")
}

fn conceal_one(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (mut authority, mut path) = (rest[..end].to_owned(), rest[end..].to_owned());
    // A password may hold an '@' or a '/' that nobody escaped: the last '@' of all decides.
    if let Some(at) = rest.rfind('@') {
        if at >= end {
            (authority, path) = split_host(&rest[at..]);
        } else {
            authority = rest[at..end].to_owned();
        }
        let user = rest[..at].split_once(':').map(|(user, _)| user);
        let user = user.map_or(HIDDEN.to_owned(), |user| format!("{user}:{HIDDEN}"));
        authority = format!("{user}{authority}");
    }
    format!("{scheme}://{authority}{}", conceal_query(&path))
}

/// `@host/path` in its two parts.
fn split_host(rest: &str) -> (String, String) {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    (rest[..end].to_owned(), rest[end..].to_owned())
}

fn conceal_query(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else {
        return path.to_owned();
    };
    let parameters: Vec<String> = query
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
            _ => parameter.to_owned(),
        })
        .collect();
    format!("{path}?{}", parameters.join("&"))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word)) && !name.ends_with("_file")
}

/// Whether whoever knows the URL of this key may use it: the path of a webhook is its password.
fn is_capability(key: &str) -> bool {
    key.starts_with("notify_") && key.ends_with("_url")
}

fn only_host(url: &str) -> String {
    let host = url.split_once("://").and_then(|(scheme, rest)| {
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = authority.rsplit('@').next()?;
        Some(format!("{scheme}://{host}/{HIDDEN}"))
    });
    host.unwrap_or_else(|| HIDDEN.to_owned())
}

/// TOML of `all` with every secret hidden; absent values as comments.
pub(super) fn to_toml(all: Map<String, Value>) -> String {
    let absent: Vec<String> = all
        .iter()
        .filter(|(_, value)| value.is_null())
        .map(|(key, _)| format!("# {key} is not set\n"))
        .collect();
    let shown = conceal_object(all);
    let toml = toml::to_string_pretty(&shown).unwrap_or_default();
    absent.concat() + &toml
}

fn conceal_object(object: Map<String, Value>) -> Map<String, Value> {
    let entries = object.into_iter().filter(|(_, value)| !value.is_null());
    entries
        .map(|(key, value)| {
            let value = match value {
                _ if is_secret(&key) => Value::String(HIDDEN.to_owned()),
                Value::String(url) if is_capability(&key) => Value::String(only_host(&url)),
                value => conceal_value(value),
            };
            (key, value)
        })
        .collect()
}

fn conceal_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(conceal_url(&text)),
        Value::Array(values) => Value::Array(values.into_iter().map(conceal_value).collect()),
        Value::Object(object) => Value::Object(conceal_object(object)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{conceal_url, to_toml};

    #[test]
    fn the_path_of_a_webhook_is_its_password() {
        let all = serde_json::json!({
            "notify_slack_url": "https://u:p@hooks.example/services/T0/B0/geheim",
            "notify_webhook_url": "no url",
            "notify_webhook_secret": "geheim",
            "smtp_url": "smtps://zektor:geheim@mail.example:465",
            "nats_url": "nats://127.0.0.1:4222",
        });
        let serde_json::Value::Object(all) = all else {
            panic!("an object");
        };
        let shown = to_toml(all);
        assert!(
            !shown.contains("geheim") && !shown.contains("u:p"),
            "{shown}"
        );
        for part in [
            "https://hooks.example/***",
            "mail.example:465",
            "127.0.0.1:4222",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn passwords_and_tokens_do_not_show() {
        for (url, shown) in [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            (
                "nats://s3cret@a:1,nats://u:p@b:2",
                "nats://***@a:1,nats://u:***@b:2",
            ),
            ("postgres://z:geheim@db/x?a=1", "postgres://z:***@db/x?a=1"),
            ("postgres://z:p@ss/w@db/x", "postgres://z:***@db/x"),
            (
                "s3://b/p?secret_key=1&region=x",
                "s3://b/p?secret_key=***&region=x",
            ),
            ("file:///srv/zektor", "file:///srv/zektor"),
            ("sqlite:///a/b.sqlite", "sqlite:///a/b.sqlite"),
            ("plain text", "plain text"),
        ] {
            assert_eq!(conceal_url(url), shown);
        }
    }
}
