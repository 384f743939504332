//! The frame around every JSON object: format, version, digest, content.
//!
//! People read these, so they are plain JSON. The digest is BLAKE3 of the content as compact JSON
//! with sorted keys and a comma after every item, so that a damaged number is not taken for a fact.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Digest, RepositoryError, Result};

const VERSION: u64 = 1;

pub(crate) fn encode<T: Serialize>(format: &str, content: &T) -> Result<Bytes> {
    let refuse = |error| RepositoryError::refused(format!("cannot write a {format}: {error}"));
    let content = serde_json::to_value(content).map_err(refuse)?;
    let document = json!({
        "format": format,
        "version": VERSION,
        "digest": digest(&content),
        "content": content,
    });
    let mut text = serde_json::to_vec_pretty(&document).map_err(refuse)?;
    text.push(b'\n');
    Ok(text.into())
}

pub(crate) fn decode<T: DeserializeOwned>(format: &str, key: &str, text: &[u8]) -> Result<T> {
    let corrupt = |reason: &str| RepositoryError::corrupt(key, reason);
    let mut document: Value = serde_json::from_slice(text)
        .map_err(|error| RepositoryError::corrupt(key, format!("not JSON: {error}")))?;
    if document["format"] != format {
        return Err(corrupt(&format!("it is not a {format}")));
    }
    let version = document["version"]
        .as_u64()
        .ok_or_else(|| corrupt("it has no version"))?;
    if version > VERSION {
        return Err(RepositoryError::Newer {
            key: key.into(),
            format: format.into(),
            version,
        });
    }
    let content = document["content"].take();
    if version != VERSION || document["digest"] != digest(&content) {
        return Err(corrupt("its digest does not match"));
    }
    serde_json::from_value(content)
        .map_err(|error| RepositoryError::corrupt(key, format!("not a {format}: {error}")))
}

fn digest(content: &Value) -> String {
    let mut text = String::new();
    canonical(content, &mut text);
    Digest::of(text.as_bytes()).to_string()
}

/// Compact JSON with sorted keys, whatever order serde_json was built to keep them in.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (name, value) in fields {
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn round_trip_and_damage() {
        let text = encode("zektor-test", &("value", 12_345_u64)).unwrap();
        let read = |text: &[u8]| decode::<(String, u64)>("zektor-test", "key", text);
        assert_eq!(read(&text).unwrap(), ("value".to_owned(), 12_345));
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(read(text.replace("12345", "12346").as_bytes()).is_err());
        assert!(decode::<(String, u64)>("zektor-other", "key", text.as_bytes()).is_err());
        let newer = text.replace("\"version\": 1", "\"version\": 2");
        let error = read(newer.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("made by a newer Zektor"), "{error}");
    }
}
