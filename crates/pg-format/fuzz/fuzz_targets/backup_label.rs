//! `backup_label`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_format::BackupLabel;

fuzz_target!(|input: &[u8]| {
    let _ = BackupLabel::parse(input).map(|label| format!("{label:?}"));
});
