//! Pages with a wrong checksum, as the server reports them while it copies.

use events::event::DamagedPage;
use pg_replication::ServerMessage;

/// Reads file and block out of the server's warning, `checksum verification failed in file "./base/5/1259",
/// block 7: calculated 1A2B but expected 3C4D` (`src/backend/backup/basebackup.c`).
///
/// The sentence is translated by the server, so only what every translation keeps is looked at: a path in some
/// kind of quotes, and the first number after it.
pub(crate) fn damaged_page(warning: &str) -> Option<DamagedPage> {
    let path_from = warning.find("base/").or_else(|| warning.find("global/"));
    let path_from = path_from.or_else(|| warning.find("pg_tblspc/"))?;
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.');
    let rest = &warning[path_from..];
    let file = &rest[..rest.find(|c| !is_path(c)).unwrap_or(rest.len())];
    let after = &rest[file.len()..];
    let digits_from = after.find(|c: char| c.is_ascii_digit())?;
    let digits = &after[digits_from..];
    let digits = &digits[..digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len())];
    let block = digits.parse().ok()?;
    Some(DamagedPage {
        file: file.to_owned(),
        block: Some(block),
    })
}

/// What is said when the server found damage and named no page.
pub(crate) fn unnamed_damage(message: &ServerMessage) -> DamagedPage {
    DamagedPage {
        file: message.message.clone(),
        block: None,
    }
}

#[cfg(test)]
mod tests {
    use events::event::DamagedPage;

    use super::damaged_page;

    #[test]
    fn file_and_block_are_read_in_any_language() {
        let page = |file: &str, block| {
            Some(DamagedPage {
                file: file.to_owned(),
                block: Some(block),
            })
        };
        let check = |warning: &str, expected| assert_eq!(damaged_page(warning), expected);
        check(
            "checksum verification failed in file \"./base/5/16384\", block 7: calculated 1A2B but \
             expected 3C4D",
            page("base/5/16384", 7),
        );
        check(
            "Prüfsummenprüfung fehlgeschlagen in Datei »./global/1262.1«, Block 12: berechnet 1",
            page("global/1262.1", 12),
        );
        check("could not verify checksum", None);
        check("file \"base/5/1\" has a total of checksum failures", None);
    }
}
