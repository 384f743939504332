//! Texts that people give: names and reasons. They stand in tables and on terminals.

use events::event::RefusalCode;

use crate::refusal::Refusal;

/// In bytes.
const LONGEST: usize = 100;

/// What was given without the blanks around it; `None` if nothing is left. `what` says what it is for.
pub(super) fn given(text: Option<&str>, what: &str) -> Result<Option<String>, Refusal> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text.len() > LONGEST || text.contains(leaves_its_line) {
        return Err(Refusal::new(
            RefusalCode::Invalid,
            format!("this cannot be the {what}"),
            format!("Use at most {LONGEST} bytes, on one line."),
        ));
    }
    Ok(Some(text.to_owned()))
}

/// What would end a line of a table, or turn the writing of what stands behind it.
fn leaves_its_line(c: char) -> bool {
    let turns =
        matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::given;

    #[test]
    fn a_name_is_one_line_of_text() {
        for (text, name) in [
            (" before the release ", "before the release"),
            (
                "\u{1F980} ä'\"; DROP TABLE --",
                "\u{1F980} ä'\"; DROP TABLE --",
            ),
            ("%s $(reboot) ../..", "%s $(reboot) ../.."),
        ] {
            assert_eq!(given(Some(text), "name").unwrap().as_deref(), Some(name));
        }
        for blank in [None, Some(""), Some(" \t\n ")] {
            assert_eq!(given(blank, "name").unwrap(), None);
        }
        let long = "x".repeat(101);
        for text in [
            "a\nb",
            "a\u{1b}[31mb",
            "a\u{202e}b",
            "a\u{2028}b",
            "a\0b",
            &long,
        ] {
            assert!(given(Some(text), "name").is_err(), "{text:?}");
        }
    }
}
