//! The contract on paper: JSON Schemas, golden examples and an AsyncAPI document, generated from the types.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::envelope::Family;
use crate::topology::{StreamRetention, streams};
use crate::{Command, Event, example};

/// Every generated file, by its path below `schemas/`.
#[must_use]
pub fn files() -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut put = |path: String, value: &Value| {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        let _ = files.insert(PathBuf::from(path), text + "\n");
    };
    for (folder, schemas) in [
        ("events", Event::schemas()),
        ("commands", Command::schemas()),
    ] {
        for (name, schema) in schemas {
            put(format!("{folder}/{name}.v1.schema.json"), schema.as_value());
        }
    }
    for event in example::events() {
        put(
            format!("golden/events/{}.v1.json", event.type_name()),
            &as_value(&event),
        );
    }
    for command in example::commands() {
        put(
            format!("golden/commands/{}.v1.json", command.type_name()),
            &as_value(&command),
        );
    }
    put("asyncapi.yaml".to_owned(), &asyncapi());
    files
}

/// Writes every file below `directory`.
///
/// # Errors
/// As the file system's.
pub fn write_all(directory: &Path) -> std::io::Result<()> {
    for (path, text) in files() {
        let path = directory.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}

/// The paths below `directory` that are missing, or differ from what the types say.
#[must_use]
pub fn drift(directory: &Path) -> Vec<PathBuf> {
    files()
        .into_iter()
        .filter(|(path, text)| {
            std::fs::read_to_string(directory.join(path)).ok().as_ref() != Some(text)
        })
        .map(|(path, _)| path)
        .collect()
}

fn as_value<M: serde::Serialize>(message: &M) -> Value {
    serde_json::to_value(message).unwrap_or(Value::Null)
}

/// JSON is YAML: the document is written in the subset that both read.
fn asyncapi() -> Value {
    let mut channels = serde_json::Map::new();
    let mut operations = serde_json::Map::new();
    let mut describe = |folder: &str, kind: &str, name: &str, subject: String| {
        let key = format!("{kind}{name}");
        let message = json!({
            "name": format!("io.zektor.{kind}{name}.v1"),
            "contentType": "application/json",
            "payload": { "$ref": format!("./{folder}/{name}.v1.schema.json") },
        });
        let _ = channels.insert(
            key.clone(),
            json!({ "address": subject, "messages": { name: message } }),
        );
        let action = if kind.is_empty() { "send" } else { "receive" };
        let _ = operations.insert(
            key.clone(),
            json!({ "action": action, "channel": { "$ref": format!("#/channels/{key}") } }),
        );
    };
    for event in example::events() {
        describe(
            "events",
            "",
            event.type_name(),
            placeholders(&event, event.address().len()),
        );
    }
    for command in example::commands() {
        let subject = placeholders(&command, command.address().len());
        describe("commands", "command.", command.type_name(), subject);
    }
    let streams: Vec<Value> = streams()
        .iter()
        .map(|stream| {
            let retention = match stream.retention {
                StreamRetention::Limits => "limits",
                StreamRetention::WorkQueue => "workqueue",
            };
            json!({
                "name": stream.name,
                "subjects": stream.subjects,
                "retention": retention,
                "max_age_secs": stream.max_age.as_secs(),
            })
        })
        .collect();
    json!({
        "asyncapi": "3.0.0",
        "info": { "title": "Zektor", "version": "1", "description":
            "Commands and events on NATS JetStream, CloudEvents in binary mode. Generated; do not edit." },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "x-jetstream": { "streams": streams },
    })
}

fn placeholders<M: Family>(message: &M, address_tokens: usize) -> String {
    let names = ["{instance}", "{branch}", "{id}"];
    let prefix = format!("zektor.{}{}", M::KIND, message.type_name());
    names
        .iter()
        .take(address_tokens)
        .fold(prefix, |subject, name| format!("{subject}.{name}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{Command, Event, example};

    fn schemas_directory() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas")
    }

    #[test]
    fn committed_files_are_what_the_types_say() {
        let drift = super::drift(&schemas_directory());
        assert!(
            drift.is_empty(),
            "run `cargo xtask schemas`; these differ: {drift:?}"
        );
    }

    #[test]
    fn every_type_has_an_example() {
        let named: Vec<_> = example::events().iter().map(Event::type_name).collect();
        assert_eq!(named, Event::TYPES);
        let named: Vec<_> = example::commands().iter().map(Command::type_name).collect();
        assert_eq!(named, Command::TYPES);
    }

    #[test]
    fn golden_examples_fit_their_schemas_and_decode() {
        for (folder, schemas) in [
            ("events", Event::schemas()),
            ("commands", Command::schemas()),
        ] {
            for (name, schema) in schemas {
                let path = schemas_directory().join(format!("golden/{folder}/{name}.v1.json"));
                let bytes = std::fs::read(path).unwrap();
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                let validator = jsonschema::validator_for(schema.as_value()).unwrap();
                assert!(
                    validator.is_valid(&value),
                    "{folder}/{name} does not fit its schema"
                );
                let decoded = match folder {
                    "events" => Event::from_json(name, &bytes).unwrap().is_ok(),
                    _ => Command::from_json(name, &bytes).unwrap().is_ok(),
                };
                assert!(decoded, "{folder}/{name} does not decode");
            }
        }
    }
}
