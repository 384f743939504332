//! Whatever the files are, what comes back is the same.

use proptest::collection::{btree_map, vec};
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::{Files, backup_id, in_memory, main_of, restore, small, store, summary};
use crate::EntryPath;

/// Runs of zeros, of one byte and of noise, so that chunks begin and end everywhere.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let run = prop_oneof![
        (1..3_usize).prop_map(|chunks| vec![0; chunks * 4096]),
        (1..9000_usize).prop_map(|length| vec![0; length]),
        (any::<u8>(), 1..9000_usize).prop_map(|(byte, length)| vec![byte; length]),
        vec(any::<u8>(), 1..5000),
    ];
    vec(run, 0..6).prop_map(|runs| runs.concat())
}

fn files() -> impl Strategy<Value = Files> {
    let name = "[a-z]{1,3}";
    let path = prop_oneof![
        name.prop_map(|name| EntryPath::data(format!("f{name}"))),
        (name, name).prop_map(|(one, two)| EntryPath::data(format!("d{one}/f{two}"))),
        (name, name).prop_map(|(one, two)| EntryPath::data(format!("d{one}/d{two}/f{one} ü"))),
        name.prop_map(|name| EntryPath::tablespace(16384, format!("d{name}/f"))),
    ];
    let mode = prop_oneof![Just(0o600), Just(0o640), Just(0o400)];
    let file = (mode, content());
    btree_map(
        path,
        file.prop_map(|(mode, content)| (mode, Some(content))),
        0..12,
    )
    .prop_map(|files| {
        let mut all: Files = files.clone();
        for path in files.keys() {
            let mut parent = path.path.as_str();
            while let Some((directory, _)) = parent.rsplit_once('/') {
                let path = EntryPath {
                    tablespace: path.tablespace,
                    path: directory.to_owned(),
                };
                let _ = all.insert(path, (0o700, None));
                parent = directory;
            }
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_comes_back(files in files(), piece in 1..20_000_usize) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let branch = main_of(&in_memory());
            let id = backup_id(1);
            let stored = store(&branch, id, "a", &files, piece).await.unwrap();
            let sizes: u64 =
                files.values().filter_map(|(_, content)| Some(content.as_ref()?.len() as u64)).sum();
            prop_assert_eq!(stored.totals.logical_bytes, sizes);
            prop_assert!(stored.packs.iter().all(|pack| pack.bytes <= small().pack_bytes as u64));
            let summary = summary(&branch, id, "a", &stored);
            let manifest = stored.commit(summary).await.unwrap().manifest().clone();
            let place = tempfile::tempdir().unwrap();
            prop_assert_eq!(restore(&branch, &manifest, place.path()).await.unwrap(), files);
            Ok(())
        })?;
    }
}
